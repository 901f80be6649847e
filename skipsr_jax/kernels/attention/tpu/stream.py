"""What the Pallas TPU kernels share: which blocks to visit, and how they come into fast memory.

Each kernel runs on a grid (pack, head, block of rows that stands still). The blocks that those rows
see are a contiguous range, because segments are, and the range reaches the kernel by scalar
prefetch. A loop of run-time length copies the range from HBM block by block into two buffers: while
one is worked on, the other fills, and the last step of a block already fetches the first block of
the next one. So time follows the segments, and no grid step is spent on a pair of blocks that do
not see each other: at 95 688 rows those would be nine in ten.

A standing block is worked on in parts with a range each, since a block across the end of a segment
would otherwise multiply all its rows with the blocks of both segments.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from skipsr_jax.types import Float, Int

LANES = 128
MASKED = -1e30  # finite, so that a row that has seen nothing yet gives exp(0) and never inf - inf


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows of a block that stands still, of the parts it is worked on in, and of a moving block.

    Larger standing blocks copy less; smaller parts and moving blocks multiply less across the ends
    of segments, larger ones keep the matrix units busier. On a chip all are multiples of 128. The
    defaults need the fewest instructions in the code compiled for the regular windows of 720p:
    parts of 256 rows need 19 % more forward and 1 % more backward on v5e, 2 % and 8 % on v6e.
    """

    standing: int = 1024
    part: int = 512
    moving: int = 512

    def __post_init__(self):
        if self.standing % self.part or self.standing % self.moving:
            raise ValueError(
                f"{self}: the part and the moving block must divide the standing block"
            )


def blocks_for(rows: int) -> Blocks:
    """The usual blocks, or a single one where the rows fit it."""
    if rows > 512:
        return Blocks()
    whole = -(-rows // LANES) * LANES
    return Blocks(whole, whole, whole)


class Visits(NamedTuple):
    """Ranges [first, last) of moving blocks, flat over (pack, block) and (pack, block, part).

    A block always visits one, so that its copies chain to the next block's; a part may visit none.
    """

    first: Int[Array, "k"]
    last: Int[Array, "k"]
    part_first: Int[Array, "l"]
    part_last: Int[Array, "l"]


def visits(start: Int[Array, "b s"], end: Int[Array, "b s"], blocks: Blocks) -> Visits:
    """Ranges of moving blocks that the rows touch. ``start = end`` marks a row of no segment."""
    inside = end > start
    beyond = start.shape[1]

    def over(x, reduce):
        return reduce(x.reshape(-1, blocks.part), axis=1)

    part_first = over(jnp.where(inside, start, beyond), jnp.min) // blocks.moving
    part_last = -(-over(jnp.where(inside, end, 0), jnp.max) // blocks.moving)
    parts = blocks.standing // blocks.part
    first = part_first.reshape(-1, parts).min(axis=1)
    last = part_last.reshape(-1, parts).max(axis=1)
    first = jnp.where(last > 0, first, 0)
    return Visits(first, jnp.maximum(last, first + 1), part_first, part_last)


class Place(NamedTuple):
    """Where a kernel stands in its grid. Read once at its top: interpret mode needs it there."""

    pack: Int[Array, ""]
    head: Int[Array, ""]
    block: Int[Array, ""]
    blocks: Int[Array, ""]


def place() -> Place:
    """Of the running kernel."""
    return Place(pl.program_id(0), pl.program_id(1), pl.program_id(2), pl.num_programs(2))


class Copy(NamedTuple):
    """``source(j)`` is the j-th moving block in HBM; it goes into ``buffer`` (2, ...)."""

    source: Callable[[Int[Array, ""]], jax.Ref]
    buffer: jax.Ref


def rows_of(ref: jax.Ref, at: Place, size: int) -> Callable[[Int[Array, ""]], jax.Ref]:
    """Block j of one head in (b, a, s, p)."""

    def source(j):
        return ref.at[at.pack, at.head, pl.ds(pl.multiple_of(j * size, size), size)]

    return source


def columns_of(ref: jax.Ref, index: tuple, size: int) -> Callable[[Int[Array, ""]], jax.Ref]:
    """Block j along the last axis of (..., n, s), whose leading axes are taken at ``index``."""

    def source(j):
        return ref.at[(*index, slice(None), pl.ds(pl.multiple_of(j * size, size), size))]

    return source


def stream(
    ranges: Visits,
    at: Place,
    copies: Sequence[Copy],
    semaphores: jax.Ref,
    slot_ref: jax.Ref,
    step: Callable[[Int[Array, ""], Int[Array, ""]], None],
) -> None:
    """``step(j, slot)`` for each moving block j of this block's range, in ``buffer[slot]``.

    ``slot_ref`` carries the filled slot from one standing block of a (pack, head) to the next, so
    the last grid axis must run in order.
    """
    here = at.pack * at.blocks + at.block
    more = at.block + 1 < at.blocks
    first, last = ranges.first[here], ranges.last[here]
    following = ranges.first[jnp.where(more, here + 1, here)]

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
    ranges: Visits, at: Place, blocks: Blocks, j: Int[Array, ""], work: Callable[[int], None]
) -> None:
    """``work(row)`` with the first row of every part whose range holds block j."""
    parts = blocks.standing // blocks.part
    for i in range(parts):
        index = (at.pack * at.blocks + at.block) * parts + i
        touched = (j >= ranges.part_first[index]) & (j < ranges.part_last[index])
        pl.when(touched)(lambda row=i * blocks.part: work(row))


def matmul(
    x: Float[Array, "..."], y: Float[Array, "..."], contract: tuple[int, int]
) -> Float[Array, "..."]:
    """Contracts an axis of each; sums in float32, and float32 operands are not cut to bfloat16."""
    precision = lax.Precision.HIGHEST if x.dtype.itemsize > 2 else None
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(x, y, axes, precision=precision, preferred_element_type=jnp.float32)


def masked_scores(
    keys: Float[Array, "t p"],
    queries: Float[Array, "r p"],
    bounds: Int[Array, "2 r"],
    first_key: Int[Array, ""],
    scale: float,
) -> Float[Array, "t r"]:
    """Scores with keys down and queries across, MASKED where a query does not see a key.

    This way round a number per query is a row: it spreads along sublanes for free, and softmax
    reduces over sublanes.
    """
    scores = matmul(keys, queries, (1, 1)) * scale
    position = first_key + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    seen = (position >= bounds[0:1]) & (position < bounds[1:2])
    return jnp.where(seen, scores, MASKED)


def standing_rows(blocks: Blocks) -> pl.BlockSpec:
    """The standing block of one head in (b, a, s, p)."""
    return pl.BlockSpec((1, 1, blocks.standing, LANES), lambda b, a, i, *_: (b, a, i, 0))


def standing_columns(count: int, blocks: Blocks, *, of_head: bool) -> pl.BlockSpec:
    """The standing block of ``count`` numbers a row, in (b, a, count, s) or (b, count, s)."""
    if of_head:
        return pl.BlockSpec((1, 1, count, blocks.standing), lambda b, a, i, *_: (b, a, 0, i))
    return pl.BlockSpec((1, count, blocks.standing), lambda b, a, i, *_: (b, 0, i))


def like(x: Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """A result that varies over the axes of an enclosing ``shard_map`` as x does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def parameters() -> pltpu.CompilerParams:
    """Packs and heads may go to the cores of a chip in any order; the last axis is a chain."""
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
