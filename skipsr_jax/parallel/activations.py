"""How activations are sharded over the mesh: logical axes, and the table of their mesh axes.

A model names the axes of an activation by what they hold; the table says over which mesh axes
packs, tokens and heads are sharded. It has two columns. Where the packs divide over (data, fsdp),
each group of devices has its own packs, whose tokens are sharded over seq. Any other number of
packs (inference has one) is not divided, and the tokens of each are sharded over all devices.

Invariant: every mesh axis shards packs or tokens, so no device repeats the work of another. Without
a mesh (``jax.set_mesh``), or on one device, nothing is sharded.
"""

import math
from typing import NamedTuple

import jax
from jax import Array
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from skipsr_jax.types import Float

AXES = ("data", "fsdp", "seq")
PACK_AXES = ("data", "fsdp")

AnyMesh = Mesh | AbstractMesh
MeshAxes = tuple[str, ...]
LogicalAxes = tuple[str | None, ...]

RULES: dict[str, tuple[MeshAxes, MeshAxes]] = {
    # logical axis: packs divide over (data, fsdp), other numbers of packs
    "packs": (PACK_AXES, ()),
    "tokens": (("seq",), AXES),
    "heads": (("seq",), AXES),
}

# Activations by their leading logical axes. Axes that are not named are not sharded.
PACKS: LogicalAxes = ("packs",)
"""(b, ...): anything, whole on each device that shares its pack."""
TOKENS: LogicalAxes = ("packs", "tokens")
"""(b, n, ...): the stored tokens, in token shards."""
TEXT_HEADS: LogicalAxes = ("packs", None, "heads")
"""(b, m, a, p): queries, keys, values or results of the text, in which a device has its heads."""
SHARD_LAYOUTS: LogicalAxes = ("packs", "tokens")
"""(b, shards, ...): the layouts of the token shards, each on its device."""
CHUNK_BY_TOKENS: LogicalAxes = (None, None, "packs", "tokens")
"""(shards, three, b, n, a, p): a head chunk where its tokens are, before the exchange."""
CHUNK_BY_HEADS: LogicalAxes = (None, None, "packs", None, "heads")
"""(shards, three, b, n, a, p): a head chunk after it, all tokens of a device's own heads."""


def multi_device_mesh(mesh: AnyMesh | None = None) -> AnyMesh | None:
    """``mesh``, by default that of ``jax.set_mesh``; None where it has no more than one device."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return None if mesh.empty or mesh.size == 1 else mesh


class ActivationSharding(NamedTuple):
    """A column of ``RULES`` for some number of packs on some mesh.

    Attributes:
      packs, tokens, heads: mesh axes that shard them; () where they are not sharded.
      shards: devices that share a pack.
    """

    packs: MeshAxes
    tokens: MeshAxes
    heads: MeshAxes
    shards: int

    def spec(self, axes: LogicalAxes) -> PartitionSpec:
        """The sharding of an activation with these logical axes."""
        names = (None if axis is None else getattr(self, axis) for axis in axes)
        return PartitionSpec(*(name or None for name in names))


def activation_sharding(packs: int, mesh: AnyMesh | None = None) -> ActivationSharding:
    """How ``packs`` packs are sharded on ``mesh``, by default the current one."""
    mesh = multi_device_mesh(mesh)
    if mesh is None:
        return ActivationSharding((), (), (), 1)
    column = 0 if packs % math.prod(mesh.shape[axis] for axis in PACK_AXES) == 0 else 1
    rules = {axis: columns[column] for axis, columns in RULES.items()}
    return ActivationSharding(
        **rules, shards=math.prod(mesh.shape[axis] for axis in rules["tokens"])
    )


def constrain(x: Array, *axes: str | MeshAxes | None) -> Array:
    """``x`` with each of its axes sharded over the named mesh axes, None where it is not sharded.

    Names that the current mesh lacks, and shards that do not divide the axis, are left out. Without
    a mesh ``x`` is returned as it is.
    """
    mesh = multi_device_mesh()
    if mesh is None:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axes named for an array of shape {x.shape}")
    spec = []
    for size, axis in zip(x.shape, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        names = tuple(name for name in names if name in mesh.shape)
        shards = math.prod(mesh.shape[name] for name in names)
        spec.append(names if names and size % shards == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _constrain_activation(x: Array, axes: LogicalAxes) -> Array:
    spec = activation_sharding(len(x)).spec(axes)
    return constrain(x, *spec, *(None,) * (x.ndim - len(axes)))


def constrain_tokens(x: Float[Array, "b n *rest"]) -> Float[Array, "b n *rest"]:
    """The tokens in equal shards over the devices that share their pack."""
    return _constrain_activation(x, TOKENS)


def constrain_text(x: Float[Array, "b m *rest"]) -> Float[Array, "b m *rest"]:
    """The text whole on each of the devices that share its pack."""
    return _constrain_activation(x, PACKS)
