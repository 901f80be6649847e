"""The backward kernels for Hopper: one for dq, one for dk and dv, so that nothing is added twice.

Both recompute the weights from the saved log2-sum-exp. For dq, queries and the gradients of their
outputs are stationary, and keys and values are streamed. For dk and dv it is the other way round,
with scores transposed so that a row is a key. Stationary rows need no mask, because rows beyond the
segment's end are not written. The first and last streamed blocks are masked, and zeroed where they
are a factor.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention.gpu_tile_table import (
    SEGMENT_BEGIN,
    SEGMENT_END,
    SEGMENT_START,
    SEGMENT_TILE,
    TILE_ROWS,
)
from skipsr_jax.kernels.attention.gpu_tiled_attention import LOG2_E
from skipsr_jax.kernels.attention.hopper.common import (
    GROUP_ROWS,
    GROUPS,
    STAGES,
    Buffers,
    Stream,
    Tile,
    between,
    buffers,
    copy_streams,
    group_rows,
    launch,
    slot_of,
    spread,
    steps_of,
    write_rows,
    zero_outside,
    zeros,
)
from skipsr_jax.kernels.pallas import mosaic_gpu as plgpu
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.types import Float, Int

BLOCK = 64  # rows of a streamed block
SHAPE = (GROUP_ROWS, BLOCK)


class _Operands(NamedTuple):
    """What both kernels read.

    Attributes:
      table: the tile table.
      q, k, v, d_out: (s, a, p).
      lse, delta: a float32 for each query, by tile: (a, tiles, rows).
    """

    table: Any
    q: Any
    k: Any
    v: Any
    d_out: Any
    lse: Any
    delta: Any


class _QueryScratch(NamedTuple):
    """For dq. Stationary: d_out, delta, lse, q, and ``tail`` for results. Streamed: k, v.

    ``free``: barriers of the slots of all streamed operands.
    """

    free: Any
    d_out: Buffers
    delta: Buffers
    lse: Buffers
    q: Buffers
    tail: Any
    k: Buffers
    v: Buffers


class _KeyScratch(NamedTuple):
    """For dk and dv. Stationary: k, v, and ``tail`` for results. Streamed: d_out, delta, lse, q.

    ``free``: barriers of the slots of all streamed operands.
    """

    free: Any
    k: Buffers
    tail: Any
    v: Buffers
    d_out: Buffers
    delta: Buffers
    lse: Buffers
    q: Buffers


def _fetch(group, *copies: tuple[Any, Buffers]):
    """Copies the stationary operands of this warpgroup to shared memory, and waits for all."""
    for source, memory in copies:
        plgpu.copy_gmem_to_smem(source, memory.shared.at[group], memory.ready.at[group])
    for _, memory in copies:
        plgpu.barrier_wait(memory.ready.at[group])
    return [memory.shared.at[group] for _, memory in copies]


def _over_blocks(table, tile, body):
    """Calls ``body(step, ends)`` for all streamed blocks, and returns their number.

    ``ends`` are the segment's bounds, in rows from the block's first, for the first and the last
    block; None for the others, whose rows are all the segment's.
    """
    steps, start = steps_of(table, tile, BLOCK), table[tile, SEGMENT_START]

    def edge(step):
        row = start + step * BLOCK
        body(step, (table[tile, SEGMENT_BEGIN] - row, table[tile, SEGMENT_END] - row))

    edge(jnp.int32(0))
    pl.loop(1, steps - 1)(lambda step: body(step, None))
    pl.loop(jnp.maximum(steps - 1, 1), steps)(edge)
    return steps


def _begin(accumulator, stationary, streamed: Buffers, slot):
    """Starts ``stationary @ streamed.T`` for the block in ``slot``, once it has arrived."""
    plgpu.barrier_wait(streamed.ready.at[slot])
    accumulator[...] = zeros(SHAPE)
    plgpu.wgmma(accumulator, stationary, streamed.shared.at[slot].T)


def _query_compute(tile: Tile, operands: _Operands, outputs, scratch: _QueryScratch, *, scale):
    """dq of a warpgroup's queries."""
    table, q, _, _, d_out, lse, delta = operands
    (d_q,), head = outputs, tile.head
    group = lax.axis_index("group")
    own = group_rows(table, tile.entry, group)
    rows, part = pl.ds(own.start, GROUP_ROWS), pl.ds(group * GROUP_ROWS, GROUP_ROWS)
    own_q, own_d_out, own_lse, own_delta = _fetch(
        group,
        (q.at[rows, head], scratch.q),
        (d_out.at[rows, head], scratch.d_out),
        (lse.at[head, tile.entry, part], scratch.lse),
        (delta.at[head, tile.entry, part], scratch.delta),
    )
    lse_rows = plgpu.layout_cast(own_lse[...], plgpu.Layout.WGMMA.reduce(1))
    delta_rows = plgpu.layout_cast(own_delta[...], plgpu.Layout.WGMMA.reduce(1))

    def scope(scores_acc, slope_acc, d_q_acc):
        def body(step, ends):
            slot = slot_of(tile.done + step)
            _begin(scores_acc, own_q, scratch.k, slot)
            _begin(slope_acc, own_d_out, scratch.v, slot)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            weights = jnp.exp2(scores * (scale * LOG2_E) - spread(lse_rows, SHAPE, 0))
            slopes = plgpu.wgmma_accumulator_load(slope_acc, wait_n=0)
            d_scores = weights * (slopes - spread(delta_rows, SHAPE, 0))
            keys = scratch.k.shared.at[slot]
            if ends is not None:
                d_scores = jnp.where(between(*ends, SHAPE, 1), d_scores, 0.0)
                zero_outside(keys, *ends)
            plgpu.wgmma(d_q_acc, d_scores.astype(q.dtype), keys)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(scratch.free.at[slot])

        return _over_blocks(table, tile.entry, body), d_q_acc[...]

    head_dim = q.shape[-1]
    steps, grad = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC((GROUP_ROWS, head_dim))
    )
    tail = scratch.tail.at[group]
    write_rows((grad * scale).astype(q.dtype), d_q.at[:, head], own, own_q, tail)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    return steps


def _query_copy(tile: Tile, operands: _Operands, outputs, scratch: _QueryScratch):
    """Streams keys and values."""
    del outputs
    table, _, k, v, *_ = operands
    start = table[tile.entry, SEGMENT_START]

    def stream(source, memory: Buffers):
        return Stream(
            lambda step: source.at[pl.ds(start + step * BLOCK, BLOCK), tile.head],
            memory,
            scratch.free,
        )

    steps = steps_of(table, tile.entry, BLOCK)
    copy_streams((stream(k, scratch.k), stream(v, scratch.v)), steps, tile.done)
    return steps


def _key_compute(tile: Tile, operands: _Operands, outputs, scratch: _KeyScratch, *, scale):
    """dk and dv of a warpgroup's keys and values."""
    table, _, k, v, *_ = operands
    (d_k, d_v), head = outputs, tile.head
    group = lax.axis_index("group")
    own = group_rows(table, tile.entry, group)
    rows = pl.ds(own.start, GROUP_ROWS)
    own_k, own_v = _fetch(group, (k.at[rows, head], scratch.k), (v.at[rows, head], scratch.v))
    dtype = k.dtype

    def of_queries(streamed: Buffers, slot):
        """A float32 for each query of the block, along the columns."""
        plgpu.barrier_wait(streamed.ready.at[slot])
        values = plgpu.layout_cast(streamed.shared[slot], plgpu.Layout.WGMMA.reduce(0))
        return spread(values, SHAPE, 1)

    def scope(scores_acc, slope_acc, d_k_acc, d_v_acc):
        def body(step, ends):
            slot = slot_of(tile.done + step)
            queries, d_outs = scratch.q.shared.at[slot], scratch.d_out.shared.at[slot]
            _begin(scores_acc, own_k, scratch.q, slot)
            _begin(slope_acc, own_v, scratch.d_out, slot)
            lse_columns = of_queries(scratch.lse, slot)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            # Rounded at once: as float32 they would not fit into the registers.
            weights = jnp.exp2(scores * (scale * LOG2_E) - lse_columns).astype(dtype)
            delta_columns = of_queries(scratch.delta, slot)
            slopes = plgpu.wgmma_accumulator_load(slope_acc, wait_n=0)
            d_scores = (weights.astype(jnp.float32) * (slopes - delta_columns)).astype(dtype)
            if ends is not None:
                inside = between(*ends, SHAPE, 1)
                weights = jnp.where(inside, weights, jnp.zeros_like(weights))
                d_scores = jnp.where(inside, d_scores, jnp.zeros_like(d_scores))
                zero_outside(queries, *ends)
                zero_outside(d_outs, *ends)
            plgpu.wgmma(d_v_acc, weights, d_outs)
            plgpu.wgmma(d_k_acc, d_scores, queries)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(scratch.free.at[slot])

        return _over_blocks(table, tile.entry, body), d_k_acc[...], d_v_acc[...]

    wide = (GROUP_ROWS, k.shape[-1])
    steps, grad_k, grad_v = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC(wide), plgpu.ACC(wide)
    )
    tail = scratch.tail.at[group]
    write_rows((grad_k * scale).astype(dtype), d_k.at[:, head], own, own_k, tail)
    write_rows(grad_v.astype(dtype), d_v.at[:, head], own, own_v, tail)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    return steps


def _key_copy(tile: Tile, operands: _Operands, outputs, scratch: _KeyScratch):
    """Streams queries, the gradients of their outputs, and their two float32."""
    del outputs
    table, q, _, _, d_out, lse, delta = operands
    start, first = table[tile.entry, SEGMENT_START], table[tile.entry, SEGMENT_TILE]

    def by_row(source, memory: Buffers):
        return Stream(
            lambda step: source.at[pl.ds(start + step * BLOCK, BLOCK), tile.head],
            memory,
            scratch.free,
        )

    def by_tile(source, memory: Buffers):
        def block(step):
            row = step * BLOCK
            within = pl.ds(lax.rem(row, jnp.int32(TILE_ROWS)), BLOCK)
            return source.at[tile.head, first + lax.div(row, jnp.int32(TILE_ROWS)), within]

        return Stream(block, memory, scratch.free)

    streams = (
        by_row(q, scratch.q),
        by_row(d_out, scratch.d_out),
        by_tile(lse, scratch.lse),
        by_tile(delta, scratch.delta),
    )
    steps = steps_of(table, tile.entry, BLOCK)
    copy_streams(streams, steps, tile.done)
    return steps


def backward(
    table: Int[Array, "tiles columns"],
    q: Float[Array, "s a p"],
    k: Float[Array, "s a p"],
    v: Float[Array, "s a p"],
    d_out: Float[Array, "s a p"],
    lse: Float[Array, "a tiles rows"],
    delta: Float[Array, "a tiles rows"],
    *,
    scale: float,
) -> tuple[Float[Array, "s a p"], Float[Array, "s a p"], Float[Array, "s a p"]]:
    """Gradients of q, k and v, unwritten in rows of no segment.

    ``lse`` is what ``forward`` returns, and ``delta`` the dot product of output and its gradient,
    by tile.
    """
    _, heads, head_dim = q.shape
    operands = _Operands(table, q, k, v, d_out, lse, delta)
    grad = jax.ShapeDtypeStruct(q.shape, q.dtype)
    stationary = buffers(GROUPS, (GROUP_ROWS, head_dim), q.dtype)
    stationary_values = buffers(GROUPS, (GROUP_ROWS,))
    streamed = buffers(STAGES, (BLOCK, head_dim), q.dtype)
    streamed_values = buffers(STAGES, (BLOCK,))
    free = plgpu.Barrier(num_barriers=STAGES, num_arrivals=GROUPS)
    tail = plgpu.SMEM((GROUPS, GROUP_ROWS, head_dim), q.dtype)
    (d_q,) = launch(
        "varlen_attention_d_query",
        functools.partial(_query_compute, scale=scale),
        _query_copy,
        operands,
        [grad],
        _QueryScratch(
            free=free,
            d_out=stationary,
            delta=stationary_values,
            lse=stationary_values,
            q=stationary,
            tail=tail,
            k=streamed,
            v=streamed,
        ),
        heads,
    )
    d_k, d_v = launch(
        "varlen_attention_d_key_value",
        functools.partial(_key_compute, scale=scale),
        _key_copy,
        operands,
        [grad, grad],
        _KeyScratch(
            free=free,
            k=stationary,
            tail=tail,
            v=stationary,
            d_out=streamed,
            delta=streamed_values,
            lse=streamed_values,
            q=streamed,
        ),
        heads,
    )
    return d_q, d_k, d_v
