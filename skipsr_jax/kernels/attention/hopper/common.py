"""What the Hopper kernels share: sizes, shared memory, the copies in and out, and the launch.

A block of threads has GROUPS warpgroups that compute and one that copies. Each computing warpgroup
has GROUP_ROWS stationary rows in shared memory. The copying warpgroup streams the other operand
through STAGES buffers, so it is up to STAGES blocks in front of the computation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention.gpu_tile_table import (
    ROW_BEGIN,
    ROW_END,
    ROW_MULTIPLE,
    SEGMENT_END,
    SEGMENT_START,
    TILE_ROWS,
    TILE_START,
    TILES,
)
from skipsr_jax.kernels.pallas import mosaic_gpu as plgpu
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.target import current_cores

GROUPS = 2
GROUP_ROWS = TILE_ROWS // GROUPS
STAGES = 2
COMPUTE_REGISTERS, COPY_REGISTERS = 240, 24  # of a thread; 2 x 128 x 240 + 128 x 24 <= 65,536


def swizzled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory in the layout that the tensor cores and the copy engine agree on."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def zeros(shape: tuple[int, int]) -> Array:
    """Float32 zeros in the accumulator's layout."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA)


def spread(x: Array, shape: tuple[int, int], axis: int) -> Array:
    """Broadcasts: ``x[i]`` wherever the index along ``axis`` is i."""
    return lax.broadcast_in_dim(x, shape, [axis])


def between(first: Array, end: Array, shape: tuple[int, int], axis: int) -> Array:
    """Where the index along ``axis`` is in [first, end)."""
    index = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)
    return (index >= first) & (index < end)


def steps_of(table: Any, tile: Array, block: int) -> Array:
    """The number of streamed blocks of ``block`` rows that cover the tile's segment."""
    rows = table[tile, SEGMENT_END] - table[tile, SEGMENT_START]
    return lax.div(rows + (block - 1), jnp.int32(block))


def slot_of(step: Array) -> Array:
    """Which of the STAGES buffers holds block ``step``."""
    return lax.rem(step, jnp.int32(STAGES))


def zero_outside(rows: Any, first: Array, end: Array) -> None:
    """Zeroes rows of shared memory outside [first, end), so that a weight of 0 on them gives 0.

    Every warpgroup that reads the rows calls this, and all of them write the same values.
    """

    @pl.when((first > 0) | (end < rows.shape[0]))
    def _():
        for start in range(0, rows.shape[0], 64):

            @pl.when((first > start) | (end < start + 64))
            def _(start=start):
                part = rows.at[pl.ds(start, 64)]
                value = plgpu.layout_cast(part[...], plgpu.Layout.WGMMA)
                inside = between(first - start, end - start, value.shape, 0)
                part[...] = jnp.where(inside, value, jnp.zeros_like(value))

        plgpu.commit_smem()


class Buffers(NamedTuple):
    """Copies of one operand in shared memory, and a barrier for each that its arrival completes.

    There are GROUPS of a stationary operand, one for each warpgroup, and STAGES of a streamed one.
    """

    ready: Any
    shared: Any


def buffers(count: int, shape: tuple[int, ...], dtype: Any = None) -> Buffers:
    """Scratch types of ``Buffers``: swizzled memory of ``dtype``, or plain float32 without one."""
    whole = (count, *shape)
    shared = plgpu.SMEM(whole, jnp.float32) if dtype is None else swizzled(whole, dtype)
    return Buffers(plgpu.Barrier(num_barriers=count), shared)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A streamed operand.

    Attributes:
      block: ``block(step)`` is a block of it in device memory.
      buffers: a block is copied into ``shared[slot]``, and ``ready[slot]`` then completes.
      free: barriers, one for each slot, that complete when no warpgroup needs the slot any more.
        Streams may share them.
    """

    block: Callable[[Array], Any]
    buffers: Buffers
    free: Any


def copy_streams(streams: tuple[Stream, ...], steps: Array, done: Array) -> None:
    """Copies ``steps`` blocks in order, each as soon as its slot is free.

    ``done`` is the number of blocks that were copied before, for other tiles.
    """

    @pl.loop(0, steps)
    def _(step):
        slot = slot_of(done + step)
        waited = []
        for stream in streams:
            if not any(stream.free is barrier for barrier in waited):
                waited.append(stream.free)
                pl.when(done + step >= STAGES)(
                    lambda free=stream.free: plgpu.barrier_wait(free.at[slot])
                )
            ready, shared = stream.buffers
            plgpu.copy_gmem_to_smem(stream.block(step), shared.at[slot], ready.at[slot])


def _store_plain(target: Any, value: Array) -> None:
    """Stores to shared memory that is not swizzled, where bank conflicts cannot be avoided."""
    if hasattr(plgpu, "store"):
        plgpu.store(target, value, optimized=False)
    else:  # before jax 0.12
        target[...] = value


@dataclasses.dataclass(frozen=True)
class GroupRows:
    """A warpgroup's rows of its tile: from ``start`` on; [first, end) of them are the segment's."""

    start: Array
    first: Array
    end: Array


def group_rows(table: Any, tile: Array, group: Array) -> GroupRows:
    """The rows of warpgroup ``group``."""
    start = table[tile, TILE_START] + group * GROUP_ROWS
    first, end = (
        jnp.clip(table[tile, column] - start, 0, GROUP_ROWS) for column in (ROW_BEGIN, ROW_END)
    )
    return GroupRows(start, first, end)


def write_rows(value: Array, target: Any, own: GroupRows, whole: Any, tail: Any) -> None:
    """Writes the segment's rows of ``value`` to ``target``, and no others. It does not wait.

    ``whole`` is swizzled shared memory, of which whole multiples of eight rows are copied. The rows
    left at the segment's ends are copied one by one from ``tail``, plain memory that may be the
    same as ``whole``.
    """
    whole[...] = value
    plgpu.commit_smem()

    @pl.when(own.end - own.first == GROUP_ROWS)
    def _():
        plgpu.copy_smem_to_gmem(whole, target.at[pl.ds(own.start, GROUP_ROWS)])

    @pl.when(own.end - own.first < GROUP_ROWS)
    def _():
        for row in range(0, GROUP_ROWS, ROW_MULTIPLE):
            eight = pl.ds(row, ROW_MULTIPLE)

            @pl.when((own.first <= row) & (own.end >= row + ROW_MULTIPLE))
            def _(row=row, eight=eight):
                rows = target.at[pl.ds(own.start + row, ROW_MULTIPLE)]
                plgpu.copy_smem_to_gmem(whole.at[eight], rows)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        _store_plain(tail, value)
        plgpu.commit_smem()

        def copy_row(row):
            plgpu.copy_smem_to_gmem(tail.at[row], target.at[own.start + row])

        eight = jnp.int32(ROW_MULTIPLE)
        begun = jnp.minimum(lax.div(own.first + (ROW_MULTIPLE - 1), eight) * eight, own.end)
        pl.loop(own.first, begun)(copy_row)
        pl.loop(jnp.maximum(lax.div(own.end, eight) * eight, begun), own.end)(copy_row)


class Tile(NamedTuple):
    """What a warpgroup works on.

    Attributes:
      head: attention head.
      entry: row of the tile table.
      done: streamed blocks of all tiles before this one, on which the next slot depends.
    """

    head: Array
    entry: Array
    done: Array


Role = Callable[[Tile, Any, tuple[Any, ...], Any], Array]
"""``role(tile, operands, outputs, scratch)`` returns the number of blocks that it streamed.

The last three are references: a tuple of the type of ``launch``'s operands, the outputs, and a
tuple of the type of ``launch``'s scratch types."""


def launch(
    name: str,
    compute: Role,
    copy: Role,
    operands: tuple[Array, ...],
    out_type: list[jax.ShapeDtypeStruct],
    scratch_types: tuple[Any, ...],
    heads: int,
) -> list[Array]:
    """Runs ``compute`` and ``copy`` over heads and tiles, as many at a time as there are cores.

    ``operands`` and ``scratch_types`` are named tuples; ``operands[0]`` is the table of tiles. What
    the copying warpgroup fetches for one tile overlaps the end of the tile before.
    """
    cores = current_cores()

    def kernel(*refs):
        *arrays, scratch = refs
        inputs = type(operands)(*arrays[: len(operands)])
        outputs = tuple(arrays[len(operands) :])
        group, core = lax.axis_index("group"), lax.axis_index("core")
        tiles = inputs[0][0, TILES]
        turns = lax.div(heads * tiles - core + (cores - 1), jnp.int32(cores))

        def over_tiles(role):
            def turn(i, done):
                item = core + i * cores
                tile = Tile(lax.div(item, tiles), lax.rem(item, tiles), done)
                return done + role(tile, inputs, outputs, scratch)

            lax.fori_loop(0, turns, turn, jnp.int32(0))

        @pl.when(group < GROUPS)
        def _():
            plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
            over_tiles(compute)
            plgpu.wait_smem_to_gmem(0)

        @pl.when(group == GROUPS)
        def _():
            plgpu.set_max_registers(COPY_REGISTERS, action="decrease")
            over_tiles(copy)

    kernel.__name__ = name  # as profiles show it
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=[scratch_types],
        grid=(cores,),
        grid_names=("core",),
        num_threads=GROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
    )(*operands)
