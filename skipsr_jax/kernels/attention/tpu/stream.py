"""What the Pallas TPU kernels share: the blocks that each one streams, the copies, the block specs.

Each kernel runs on a grid (pack, head, stationary block of rows). The blocks that those rows see
are a contiguous range, because segments are contiguous, and the range reaches the kernel by scalar
prefetch. A loop of run-time length streams the range from HBM, block by block, into two buffers.
While the kernel works on one buffer the other one fills, and the last step of a stationary block
already fetches the first block of the next one. So time follows the segments, and no grid step is
spent on a pair of blocks that do not see each other: at 95 688 rows those would be nine in ten.

A stationary block is worked on in parts with a range each, since a block across the end of a
segment would otherwise multiply all its rows with the blocks of both segments.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import tpu as pltpu
from skipsr_jax.types import Float, Int

LANES = 128
MASKED = -1e30  # finite, so that a row with no visible key yet gives exp(0) and never inf - inf


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows of a stationary block, of the parts it is worked on in, and of a streamed block.

    Larger stationary blocks copy less. Smaller parts and streamed blocks multiply less across the
    ends of segments, and larger ones keep the matrix units busier. On a chip all are multiples of
    128. The defaults need the fewest instructions in the code compiled for the regular windows of
    720p: parts of 256 rows need 19 % more forward and 1 % more backward on v5e, 2 % and 8 % on v6e.
    """

    stationary: int = 1024
    part: int = 512
    streamed: int = 512

    def __post_init__(self):
        if self.stationary % self.part or self.stationary % self.streamed:
            raise ValueError(
                f"{self}: the part and the streamed block must divide the stationary block"
            )


def blocks_for(rows: int) -> Blocks:
    """The usual blocks, or a single one where the rows fit it."""
    if rows > 512:
        return Blocks()
    whole = -(-rows // LANES) * LANES
    return Blocks(whole, whole, whole)


class BlockRanges(NamedTuple):
    """Ranges [first, last) of streamed blocks, flat over (pack, block) and (pack, block, part).

    A stationary block has a range of at least one, so that its copies chain to those of the next
    block. The range of a part may be empty.
    """

    first: Int[Array, "blocks"]
    last: Int[Array, "blocks"]
    part_first: Int[Array, "parts"]
    part_last: Int[Array, "parts"]


def block_ranges(start: Int[Array, "b s"], end: Int[Array, "b s"], blocks: Blocks) -> BlockRanges:
    """The streamed blocks that stationary rows see. ``start = end`` marks a row of no segment."""
    inside = end > start
    beyond = start.shape[1]

    def over(x, reduce):
        return reduce(x.reshape(-1, blocks.part), axis=1)

    part_first = over(jnp.where(inside, start, beyond), jnp.min) // blocks.streamed
    part_last = -(-over(jnp.where(inside, end, 0), jnp.max) // blocks.streamed)
    parts = blocks.stationary // blocks.part
    first = part_first.reshape(-1, parts).min(axis=1)
    last = part_last.reshape(-1, parts).max(axis=1)
    first = jnp.where(last > 0, first, 0)
    return BlockRanges(first, jnp.maximum(last, first + 1), part_first, part_last)


class GridIndex(NamedTuple):
    """The running program's index in the grid. Interpret mode needs it read at a kernel's top."""

    pack: Int[Array, ""]
    head: Int[Array, ""]
    block: Int[Array, ""]
    blocks: Int[Array, ""]


def grid_index() -> GridIndex:
    """The index of the running program."""
    return GridIndex(pl.program_id(0), pl.program_id(1), pl.program_id(2), pl.num_programs(2))


class Copy(NamedTuple):
    """``source(j)`` is the j-th streamed block in HBM; it goes into ``buffer`` (2, ...)."""

    source: Callable[[Int[Array, ""]], jax.Ref]
    buffer: jax.Ref


def rows_of(ref: jax.Ref, at: GridIndex, size: int) -> Callable[[Int[Array, ""]], jax.Ref]:
    """Block j of one head in (b, a, s, p)."""

    def source(j):
        return ref.at[at.pack, at.head, pl.ds(pl.multiple_of(j * size, size), size)]

    return source


def head_columns_of(
    ref: jax.Ref, at: GridIndex, size: int, first: int
) -> Callable[[Int[Array, ""]], jax.Ref]:
    """Block j of one head in (b, s, a p), with heads as columns of 128, from head ``first``."""

    def source(j):
        columns = pl.ds(pl.multiple_of((first + at.head) * LANES, LANES), LANES)
        return ref.at[at.pack, pl.ds(pl.multiple_of(j * size, size), size), columns]

    return source


def columns_of(ref: jax.Ref, index: tuple, size: int) -> Callable[[Int[Array, ""]], jax.Ref]:
    """Block j along the last axis of (..., count, s), whose leading axes are taken at ``index``."""

    def source(j):
        return ref.at[(*index, slice(None), pl.ds(pl.multiple_of(j * size, size), size))]

    return source


def stream(
    ranges: BlockRanges,
    at: GridIndex,
    copies: Sequence[Copy],
    semaphores: jax.Ref,
    slot_ref: jax.Ref,
    step: Callable[[Int[Array, ""], Int[Array, ""]], None],
) -> None:
    """Calls ``step(j, slot)`` for each block j of the range, once it is in ``buffer[slot]``.

    ``slot_ref`` carries the filled slot from one stationary block of a (pack, head) to the next, so
    the last grid axis must run in order.
    """
    block = at.pack * at.blocks + at.block
    more = at.block + 1 < at.blocks
    first, last = ranges.first[block], ranges.last[block]
    following = ranges.first[jnp.where(more, block + 1, block)]

    def transfers(j, slot):
        return [
            pltpu.make_async_copy(copy.source(j), copy.buffer.at[slot], semaphores.at[i, slot])
            for i, copy in enumerate(copies)
        ]

    @pl.when(at.block == 0)
    def _():
        slot_ref[0] = 0
        for transfer in transfers(first, 0):
            transfer.start()

    def body(j, slot):
        ends = j + 1 == last

        @pl.when(jnp.logical_or(jnp.logical_not(ends), more))
        def _():
            for transfer in transfers(jnp.where(ends, following, j + 1), 1 - slot):
                transfer.start()

        for transfer in transfers(j, slot):
            transfer.wait()
        step(j, slot)
        return 1 - slot

    slot_ref[0] = lax.fori_loop(first, last, body, slot_ref[0])


def each_part(
    ranges: BlockRanges,
    at: GridIndex,
    blocks: Blocks,
    j: Int[Array, ""],
    work: Callable[[int], None],
) -> None:
    """Calls ``work(row)`` with the first row of every part whose range holds block j."""
    parts = blocks.stationary // blocks.part
    for i in range(parts):
        index = (at.pack * at.blocks + at.block) * parts + i
        in_range = (j >= ranges.part_first[index]) & (j < ranges.part_last[index])
        pl.when(in_range)(lambda row=i * blocks.part: work(row))


def matmul(
    x: Float[Array, "..."], y: Float[Array, "..."], contract: tuple[int, int]
) -> Float[Array, "..."]:
    """Contracts an axis of each; sums in float32, and float32 operands are not cut to bfloat16."""
    precision = lax.Precision.HIGHEST if x.dtype.itemsize > 2 else None
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(x, y, axes, precision=precision, preferred_element_type=jnp.float32)


def masked_scores(
    keys: Float[Array, "keys p"],
    queries: Float[Array, "queries p"],
    bounds: Int[Array, "2 queries"],
    first_key: Int[Array, ""],
    scale: float,
) -> Float[Array, "keys queries"]:
    """Scores with a row for each key, MASKED where a query does not see it.

    In this orientation a value per query is a row: it broadcasts along sublanes for free, and
    softmax reduces over sublanes.
    """
    scores = matmul(keys, queries, (1, 1)) * scale
    position = first_key + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    visible = (position >= bounds[0:1]) & (position < bounds[1:2])
    return jnp.where(visible, scores, MASKED)


def stationary_rows(blocks: Blocks) -> Any:
    """The stationary block of one head in (b, a, s, p)."""
    return pl.BlockSpec((1, 1, blocks.stationary, LANES), lambda b, a, i, *_: (b, a, i, 0))


def stationary_columns(count: int, blocks: Blocks, *, of_head: bool) -> Any:
    """The stationary block of ``count`` values a row, in (b, a, count, s) or (b, count, s)."""
    if of_head:
        return pl.BlockSpec((1, 1, count, blocks.stationary), lambda b, a, i, *_: (b, a, 0, i))
    return pl.BlockSpec((1, count, blocks.stationary), lambda b, a, i, *_: (b, 0, i))


def like(x: Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """A result that varies over the axes of an enclosing ``shard_map`` as x does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def compiler_params() -> Any:
    """Packs and heads may run on the cores of a chip in any order; the last axis is a chain."""
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
