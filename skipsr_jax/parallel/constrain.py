"""Where an activation lies on the mesh, said inside a model without knowing the mesh.

Invariant: without a mesh (``jax.set_mesh``), or on one device, nothing happens.
"""

import jax
from jax import Array
from jax.sharding import PartitionSpec

Axis = str | tuple[str, ...] | None


def constrain(x: Array, *axes: Axis) -> Array:
    """``x`` with each of its axes over the named mesh axes, None where it is not cut.

    Names that the current mesh lacks, and cuts that do not divide the axis, are left out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axes named for an array of shape {x.shape}")
    spec = []
    for size, axis in zip(x.shape, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        names = tuple(name for name in names if name in mesh.shape)
        cut = 1
        for name in names:
            cut *= mesh.shape[name]
        spec.append(names if names and size % cut == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
