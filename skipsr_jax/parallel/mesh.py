"""The mesh of devices: axes ``data``, ``fsdp`` and ``seq``. One device is a mesh of one.

Packs lie over (data, fsdp), parameters over fsdp, tokens over seq.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.activations import AXES, PACK_AXES

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class MeshSizes:
    """Devices along each axis of the mesh; -1: what the others leave."""

    data: int = -1
    fsdp: int = 1
    seq: int = 1


def check_one_slice(devices: Sequence[Any]) -> None:
    """Raises UserError for TPUs of several slices, which no torus joins."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1:
        raise UserError(f"the devices are of {len(slices)} slices: a mesh lies within one")


def make_mesh(
    data: int = -1, fsdp: int = 1, seq: int = 1, chosen: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of all devices, or of those ``chosen``; at most one size may be -1: what the others
    leave.

    Raises UserError when the sizes do not multiply to the number of devices, and for devices of
    several slices, which no torus joins.
    """
    chosen = jax.devices() if chosen is None else chosen
    sizes, devices = [data, fsdp, seq], len(chosen)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh sizes {sizes} must be positive, or -1 for one of them")
    if -1 in sizes:
        known = -sizes[0] * sizes[1] * sizes[2]
        sizes[sizes.index(-1)] = max(1, devices // known)
    if sizes[0] * sizes[1] * sizes[2] != devices:
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"a mesh of {axes} does not use the {devices} devices there are")
    check_one_slice(chosen)
    kinds = (AxisType.Auto,) * len(AXES)
    # A torus of 16 x 16 gives its axes in parts too: 64 x 4 is as good as 16 x 16.
    placed = mesh_utils.create_device_mesh(sizes, chosen, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=kinds)


def mesh_of(sizes: MeshSizes) -> Mesh:
    """A mesh of as many of this host's devices as the sizes ask for, of all where one is -1."""
    wanted = sizes.data * sizes.fsdp * sizes.seq
    chosen = jax.local_devices()
    return make_mesh(**dataclasses.asdict(sizes), chosen=chosen[:wanted] if wanted > 0 else chosen)


def packs(mesh: Mesh) -> NamedSharding:
    """Leading axis over the devices that hold different packs."""
    return NamedSharding(mesh, PartitionSpec(PACK_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same numbers on every device."""
    return NamedSharding(mesh, PartitionSpec())


def pack_shards(mesh: Mesh) -> int:
    """Over how many devices the packs are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def pack_hosts(mesh: Mesh) -> tuple[int, int]:
    """(this host's number, how many) among hosts that hold different packs.

    Hosts whose devices share their packs, over seq, have one number and read the same data. Raises
    UserError when hosts hold unequal shares of the packs.
    """
    rows = mesh.devices.reshape(pack_shards(mesh), -1)
    held: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        for host in {device.process_index for device in row}:
            held.setdefault(host, []).append(number)
    groups = sorted({tuple(numbers) for numbers in held.values()})
    if sorted(sum(groups, ())) != list(range(len(rows))) or len({len(g) for g in groups}) > 1:
        raise UserError(
            f"a mesh of {dict(mesh.shape)} spreads packs unevenly over {len(held)} hosts: make "
            "mesh.seq a divisor or a multiple of the devices of a host"
        )
    return groups.index(tuple(held[jax.process_index()])), len(groups)


def on_mesh(mesh: Mesh | None, program: Callable[..., Result]) -> Callable[..., Result]:
    """``program`` with ``mesh`` as the current one; itself without a mesh."""
    if mesh is None:
        return program

    def run(*arguments: object) -> Result:
        with jax.set_mesh(mesh):
            return program(*arguments)

    return run
