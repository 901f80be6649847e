"""The mesh of devices: axes ``data``, ``fsdp`` and ``seq``. One device is a mesh of one.

Packs are sharded over (data, fsdp), parameters over fsdp, and tokens over seq. Several slices, with
a slow network between them, divide ``data``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.activations import AXES, PACK_AXES, AnyMesh

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class MeshSizes:
    """Devices along each axis of the mesh.

    Attributes:
      data: devices over which packs are split; -1: as many as the other axes leave.
      fsdp: devices over which parameters, and packs, are sharded; -1: as many as the other axes
        leave.
      seq: devices that share the tokens of a pack; -1: as many as the other axes leave.
    """

    data: int = -1
    fsdp: int = 1
    seq: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingMeshSizes(MeshSizes):
    """``MeshSizes`` of a training run.

    Attributes:
      slices: groups of devices with a fast network inside and a slow one between: TPU slices. They
        divide ``data``, which counts the devices along that axis in all slices together, so that
        gradients are all that passes between slices.
    """

    slices: int = 1


def slices_of(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice.

    TPUs know their slice. Others are cut into equal parts, in the order of hosts and numbers.
    Raises UserError when there are other slices than ``slices``, or unequal ones.
    """
    groups: dict[int, list[Any]] = {}
    for device in devices:
        number = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        groups.setdefault(number, []).append(device)
    if len(groups) > 1 and len(groups) != slices:
        raise UserError(
            f"the devices are of {len(groups)} slices, and mesh.slices is {slices}: set "
            f"mesh.slices={len(groups)} to train on all of them (infer.py runs on one slice: start "
            "a program on each)"
        )
    if len({len(group) for group in groups.values()}) > 1 or len(devices) % slices:
        sizes = ", ".join(str(len(group)) for group in groups.values())
        raise UserError(f"mesh.slices is {slices}, which does not divide devices evenly: {sizes}")
    if len(groups) > 1 or slices == 1:
        return [groups[number] for number in sorted(groups)]
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    each = len(ordered) // slices
    return [ordered[first : first + each] for first in range(0, len(ordered), each)]


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    seq: int = 1,
    devices: Sequence[jax.Device] | None = None,
    slices: int = 1,
) -> Mesh:
    """The mesh of ``devices``, by default of all.

    At most one size may be -1, which means as many devices as the others leave. ``slices`` as in
    ``TrainingMeshSizes``: each has consecutive entries along ``data``. Raises UserError when the
    sizes do not multiply to the number of devices, and for slices that do not fit.
    """
    devices = jax.devices() if devices is None else devices
    sizes, count = [data, fsdp, seq], len(devices)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh sizes {sizes} must be positive, or -1 for one of them")
    if slices < 1:
        raise UserError(f"mesh.slices is {slices}: it must be 1 or more")
    if -1 in sizes:
        known = -sizes[0] * sizes[1] * sizes[2]
        sizes[sizes.index(-1)] = max(1, count // known)
    if sizes[0] * sizes[1] * sizes[2] != count:
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(
            f"a mesh of {axes} does not use the {count} devices there are: change a size, or make "
            "one of them -1"
        )
    groups = slices_of(devices, slices)
    if sizes[0] % slices:
        raise UserError(
            f"mesh.slices is {slices}, but mesh.data is {sizes[0]}: it must be a multiple, since "
            "only data goes between slices"
        )
    inside = [sizes[0] // slices, *sizes[1:]]
    # A torus of 16 x 16 offers divided axes too: 64 x 4 is as good as 16 x 16.
    # mesh_utils.create_hybrid_device_mesh does the same, for devices that know their slice alone.
    grids = [
        mesh_utils.create_device_mesh(inside, group, allow_split_physical_axes=True)
        for group in groups
    ]
    return Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_of(sizes: MeshSizes) -> Mesh:
    """A mesh of as many of this host's devices as the sizes ask for, of all where one is -1."""
    wanted, devices = sizes.data * sizes.fsdp * sizes.seq, jax.local_devices()
    return make_mesh(
        **dataclasses.asdict(sizes), devices=devices[:wanted] if wanted > 0 else devices
    )


def pack_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis counts packs (or clips)."""
    return NamedSharding(mesh, PartitionSpec(PACK_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that are whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def pack_shards(mesh: AnyMesh) -> int:
    """The number of shards that packs are divided into: data times fsdp."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def pack_hosts(mesh: Mesh) -> tuple[int, int]:
    """(this host's number, how many) among hosts that hold different packs.

    Hosts whose devices share their packs, over seq, have one number and read the same data. Raises
    UserError when hosts hold different numbers of packs.
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
    """``program``, run with ``mesh`` as the current one; itself without a mesh."""
    if mesh is None:
        return program

    def run(*arguments: object) -> Result:
        with jax.set_mesh(mesh):
            return program(*arguments)

    return run
