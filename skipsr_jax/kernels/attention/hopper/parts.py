"""What the Hopper kernels share: sizes, shared memory, copies in and out, the cut at an end.

A block of threads is GROUPS warpgroups that compute, on GROUP_ROWS rows each that stand still in
shared memory, and one that copies the rows that go by, STAGES blocks ahead of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from skipsr_jax.kernels.attention.gpu_tiles import (
    ROW_BEGIN,
    ROW_END,
    ROW_MULTIPLE,
    SEGMENT_END,
    SEGMENT_START,
    TILE_ROWS,
    TILE_START,
    TILES,
)
from skipsr_jax.kernels.target import current_cores

try:
    from jax.experimental.pallas.mosaic_gpu import store as _store
except ImportError:  # before jax 0.12
    _store = None

GROUPS = 2
GROUP_ROWS = TILE_ROWS // GROUPS
STAGES = 2
COMPUTE_REGISTERS, COPY_REGISTERS = 240, 24  # of a thread; 2 x 128 x 240 + 128 x 24 <= 65,536
WGMMA = plgpu.Layout.WGMMA


def swizzled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory in the layout that the tensor cores and the copy engine agree on."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def zeros(shape: tuple[int, int]) -> Array:
    """In the accumulator's layout."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), WGMMA)


def spread(x: Array, shape: tuple[int, int], axis: int) -> Array:
    """``x[i]`` at every place whose index along ``axis`` is i."""
    return lax.broadcast_in_dim(x, shape, [axis])


def between(first: Array, end: Array, shape: tuple[int, int], axis: int) -> Array:
    """Where the index along ``axis`` is in [first, end)."""
    index = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)
    return (index >= first) & (index < end)


def steps_of(table: Any, tile: Array, block: int) -> Array:
    """In how many blocks of ``block`` rows the tile's segment goes by."""
    rows = table[tile, SEGMENT_END] - table[tile, SEGMENT_START]
    return lax.div(rows + (block - 1), jnp.int32(block))


def slot_of(step: Array) -> Array:
    """Which of the STAGES buffers holds block ``step``."""
    return lax.rem(step, jnp.int32(STAGES))


def zero_outside(rows: Any, first: Array, end: Array) -> None:
    """Zeroes rows of shared memory outside [first, end): a weight of zero on them then gives zero.

    Every warpgroup that reads them calls it, and all write the same.
    """

    @pl.when((first > 0) | (end < rows.shape[0]))
    def _():
        for start in range(0, rows.shape[0], 64):

            @pl.when((first > start) | (end < start + 64))
            def _(start=start):
                part = rows.at[pl.ds(start, 64)]
                held = plgpu.layout_cast(part[...], WGMMA)
                inside = between(first - start, end - start, held.shape, 0)
                part[...] = jnp.where(inside, held, jnp.zeros_like(held))

        plgpu.commit_smem()


@dataclasses.dataclass(frozen=True)
class Stream:
    """One array that goes by: ``block(step)`` of it into ``shared[slot]``, then ``ready[slot]``."""

    block: Callable[[Array], Any]
    shared: Any
    ready: Any
    free: Any


def copy_streams(streams: tuple[Stream, ...], steps: Array, done: Array) -> None:
    """All blocks in order, each as soon as its buffer is free; ``done`` came before them."""

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
            plgpu.copy_gmem_to_smem(
                stream.block(step), stream.shared.at[slot], stream.ready.at[slot]
            )


def _store_plain(target: Any, value: Array) -> None:
    """To shared memory that is not swizzled, where bank conflicts cannot be avoided."""
    if _store is None:
        target[...] = value
    else:
        _store(target, value, optimized=False)


@dataclasses.dataclass(frozen=True)
class Own:
    """A warpgroup's rows of its tile: from ``start`` on; [first, end) of them are the segment's."""

    start: Array
    first: Array
    end: Array


def own_rows(table: Any, tile: Array, group: Array) -> Own:
    """Of this warpgroup."""
    start = table[tile, TILE_START] + group * GROUP_ROWS
    first, end = (
        jnp.clip(table[tile, column] - start, 0, GROUP_ROWS) for column in (ROW_BEGIN, ROW_END)
    )
    return Own(start, first, end)


def write_rows(value: Array, target: Any, own: Own, whole: Any, tail: Any) -> None:
    """The segment's rows of ``value`` to ``target``, and no others; does not wait at the end.

    ``whole`` is swizzled shared memory, of which whole multiples of eight rows are copied; what is
    left at the segment's ends goes a row at a time through ``tail``, plain and perhaps the same.
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


def launch(
    compute: Callable[..., Array],
    copy: Callable[..., Array],
    operands: tuple[Array, ...],
    out_type: list[jax.ShapeDtypeStruct],
    scratch_types: dict[str, Any],
    heads: int,
) -> list[Array]:
    """Runs ``compute`` and ``copy`` over heads and tiles, as many at a time as there are cores.

    ``operands[0]`` is the table of tiles. Both roles get a head and tile and how many blocks went
    by before, then references of operands, results and scratch, and return how many went by. What
    the copying warpgroup fetches of one tile overlaps the end of the tile before.
    """
    cores = current_cores()

    def kernel(*refs):
        *arrays, scratch = refs
        group, core = lax.axis_index("group"), lax.axis_index("core")
        tiles = arrays[0][0, TILES]
        turns = lax.div(heads * tiles - core + (cores - 1), jnp.int32(cores))

        def over_tiles(role):
            def turn(i, done):
                item = core + i * cores
                place = (lax.div(item, tiles), lax.rem(item, tiles))
                return done + role(*place, done, *arrays, **scratch)

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
