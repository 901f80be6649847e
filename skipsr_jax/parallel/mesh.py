"""The mesh of devices: axes ``data``, ``fsdp`` and ``seq``. One device is a mesh of one.

Packs lie over (data, fsdp), parameters over fsdp, tokens over seq.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from skipsr_jax.errors import UserError

AXES = ("data", "fsdp", "seq")
PACK_AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1, seq: int = 1) -> Mesh:
    """A mesh of all devices; at most one size may be -1: whatever the others leave.

    Raises UserError when the sizes do not multiply to the number of devices.
    """
    sizes, devices = [data, fsdp, seq], jax.device_count()
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh sizes {sizes} must be positive, or -1 for one of them")
    if -1 in sizes:
        known = -sizes[0] * sizes[1] * sizes[2]
        sizes[sizes.index(-1)] = max(1, devices // known)
    if sizes[0] * sizes[1] * sizes[2] != devices:
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"a mesh of {axes} does not use the {devices} devices there are")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def packs(mesh: Mesh) -> NamedSharding:
    """Leading axis over the devices that hold different packs."""
    return NamedSharding(mesh, PartitionSpec(PACK_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same numbers on every device."""
    return NamedSharding(mesh, PartitionSpec())


def pack_shards(mesh: Mesh) -> int:
    """Over how many devices the packs are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
