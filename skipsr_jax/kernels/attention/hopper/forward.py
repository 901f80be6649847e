"""The forward kernel for Hopper: one block of threads for each head and tile of queries.

Two warpgroups compute 64 queries each, and a third copies keys and values. The two take turns on
the tensor cores: while one computes its softmax, the other one adds the values of a block of keys
and computes the scores of the next block (Shah et al. 2024, FlashAttention-3, section 3.1).
Exponents are in base 2. Keys outside the segment are masked, and values there set to zero, in the
first and the last block alone.
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
    TILE_ROWS,
    TILE_START,
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
    swizzled,
    write_rows,
    zero_outside,
    zeros,
)
from skipsr_jax.kernels.pallas import mosaic_gpu as plgpu
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.types import Float, Int

KEYS = 128  # rows of a streamed block


def _row_values(value: float) -> Array:
    """A float32 for each query of a warpgroup."""
    return plgpu.layout_cast(
        jnp.full((GROUP_ROWS,), value, jnp.float32), plgpu.Layout.WGMMA.reduce(1)
    )


class _Operands(NamedTuple):
    """The tile table, and (s, a, p)."""

    table: Any
    q: Any
    k: Any
    v: Any


class _StreamBuffers(NamedTuple):
    """``Buffers`` of a streamed operand, with the barriers of its own slots."""

    free: Any
    ready: Any
    shared: Any


class _Scratch(NamedTuple):
    """Shared memory and barriers of a block of threads.

    Attributes:
      lse: log2 of the sums of exponents.
      out: the output's rows, one memory under two layouts.
      q: the stationary queries; ``q_free`` completes when no warpgroup needs them any more.
      turn: which warpgroup may use the tensor cores.
      k, v: the streamed keys and values.
    """

    lse: Any
    out: Any
    q: Any
    q_free: Any
    q_ready: Any
    turn: Any
    k: _StreamBuffers
    v: _StreamBuffers


def _compute(tile: Tile, operands: _Operands, outputs, scratch: _Scratch, *, scale):
    """Attention of a warpgroup's queries. ``outputs`` are (s, a, p) and maybe (a, tiles, rows)."""
    table, q, *_ = operands
    out, lse = outputs if len(outputs) == 2 else (*outputs, None)
    group, turn = lax.axis_index("group"), scratch.turn
    own = group_rows(table, tile.entry, group)
    steps = steps_of(table, tile.entry, KEYS)
    begin, end = (
        table[tile.entry, column] - table[tile.entry, SEGMENT_START]
        for column in (SEGMENT_BEGIN, SEGMENT_END)
    )
    own_q = scratch.q.at[group]
    # The first turn on the tensor cores is the first warpgroup's.
    pl.when((group == 1) & (tile.done == 0))(lambda: plgpu.barrier_arrive(turn.at[0]))
    plgpu.barrier_wait(scratch.q_ready.at[group])
    shape = (GROUP_ROWS, KEYS)

    def wait_for(stream: _StreamBuffers, step):
        """The shared memory of a block, once it has arrived."""
        slot = slot_of(tile.done + step)
        plgpu.barrier_wait(stream.ready.at[slot])
        return stream.shared.at[slot]

    def values_at(step):
        return scratch.v.shared.at[slot_of(tile.done + step)]

    def release(stream: _StreamBuffers, step):
        plgpu.barrier_arrive(stream.free.at[slot_of(tile.done + step)])

    def masked(scores, step):
        inside = between(begin - step * KEYS, end - step * KEYS, shape, 1)
        return jnp.where(inside, scores, -jnp.inf)

    def softmax(scores, peak, total):
        new_peak = jnp.maximum(peak, scores.max(axis=1) * (scale * LOG2_E))
        keep = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores * (scale * LOG2_E) - spread(new_peak, shape, 0))
        return weights.astype(q.dtype), new_peak, total * keep + weights.sum(axis=1), keep

    def scope(scores_acc, out_acc):
        def advance(step, carry, last):
            weights, peak, total = carry
            keys = wait_for(scratch.k, step)
            scores_acc[...] = zeros(shape)
            plgpu.barrier_wait(turn.at[group])
            plgpu.wgmma(out_acc, weights, values_at(step - 1))
            plgpu.wgmma(scores_acc, own_q, keys.T)
            plgpu.barrier_arrive(turn.at[1 - group])
            scores = scores_acc[...]
            release(scratch.v, step - 1)
            release(scratch.k, step)
            if last:
                plgpu.barrier_arrive(scratch.q_free)
                scores = masked(scores, step)
            weights, peak, total, keep = softmax(scores, peak, total)
            so_far = out_acc[...]
            out_acc[...] = so_far * spread(keep, so_far.shape, 0)
            wait_for(scratch.v, step)
            return weights, peak, total

        first = jnp.int32(0)
        plgpu.wgmma(scores_acc, own_q, wait_for(scratch.k, first).T)
        scores = masked(scores_acc[...], first)
        release(scratch.k, first)
        pl.when(steps == 1)(lambda: plgpu.barrier_arrive(scratch.q_free))
        carry = softmax(scores, _row_values(-jnp.inf), _row_values(0.0))[:3]
        zero_outside(wait_for(scratch.v, first), begin, end)
        carry = lax.fori_loop(1, steps - 1, functools.partial(advance, last=False), carry)
        ended = jnp.maximum(steps - 1, 1)
        carry = lax.fori_loop(ended, steps, functools.partial(advance, last=True), carry)
        weights, peak, total = carry
        zero_outside(values_at(steps - 1), first, end - (steps - 1) * KEYS)
        plgpu.wgmma(out_acc, weights, values_at(steps - 1))
        result = out_acc[...]
        release(scratch.v, steps - 1)
        return result, peak, total

    accumulators = (plgpu.ACC(shape), plgpu.ACC((GROUP_ROWS, q.shape[-1])))
    result, peak, total = pl.run_scoped(scope, *accumulators)
    result = (result * spread(1 / total, result.shape, 0)).astype(q.dtype)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what the tile before wrote
    if lse is not None:
        scratch.lse[group] = peak + jnp.log2(total)
        plgpu.commit_smem()
        part = pl.ds(group * GROUP_ROWS, GROUP_ROWS)
        plgpu.copy_smem_to_gmem(scratch.lse.at[group], lse.at[tile.head, tile.entry, part])
    whole, tail = scratch.out
    write_rows(result, out.at[:, tile.head], own, whole.at[group], tail.at[group])
    return steps


def _copy(tile: Tile, operands: _Operands, outputs, scratch: _Scratch):
    """Copies the tile's queries, and streams keys and values of its segment."""
    del outputs
    table, q, k, v = operands
    pl.when(tile.done > 0)(lambda: plgpu.barrier_wait(scratch.q_free))
    for group in range(GROUPS):
        rows = pl.ds(table[tile.entry, TILE_START] + group * GROUP_ROWS, GROUP_ROWS)
        plgpu.copy_gmem_to_smem(
            q.at[rows, tile.head], scratch.q.at[group], scratch.q_ready.at[group]
        )
    start = table[tile.entry, SEGMENT_START]

    def stream(source, memory: _StreamBuffers):
        return Stream(
            lambda step: source.at[pl.ds(start + step * KEYS, KEYS), tile.head],
            Buffers(memory.ready, memory.shared),
            memory.free,
        )

    steps = steps_of(table, tile.entry, KEYS)
    copy_streams((stream(k, scratch.k), stream(v, scratch.v)), steps, tile.done)
    return steps


def forward(
    table: Int[Array, "tiles columns"],
    q: Float[Array, "s a p"],
    k: Float[Array, "s a p"],
    v: Float[Array, "s a p"],
    *,
    scale: float,
    with_lse: bool,
) -> tuple[Float[Array, "s a p"], Float[Array, "a tiles rows"] | None]:
    """Output, unwritten in rows of no segment, and log2 of the sum of exponents by tile.

    The latter is without meaning in rows of a tile that are not its segment's.
    """
    heads, head_dim = q.shape[1:]
    by_group = (GROUPS, GROUP_ROWS, head_dim)
    free = plgpu.Barrier(num_barriers=STAGES, num_arrivals=GROUPS)
    stream = _StreamBuffers(free, *buffers(STAGES, (KEYS, head_dim), q.dtype))
    scratch = _Scratch(
        lse=plgpu.SMEM((GROUPS, GROUP_ROWS), jnp.float32),
        out=plgpu.RefUnion(swizzled(by_group, q.dtype), plgpu.SMEM(by_group, q.dtype)),
        q=swizzled(by_group, q.dtype),
        q_free=plgpu.Barrier(num_arrivals=GROUPS),
        q_ready=plgpu.Barrier(num_barriers=GROUPS),
        turn=plgpu.Barrier(num_barriers=GROUPS),
        k=stream,
        v=stream,
    )
    out_type = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    if with_lse:
        by_tile = (heads, table.shape[0], TILE_ROWS)
        out_type.append(jax.ShapeDtypeStruct(by_tile, jnp.float32))
    results = launch(
        "varlen_attention_forward",
        functools.partial(_compute, scale=scale),
        _copy,
        _Operands(table, q, k, v),
        out_type,
        scratch,
        heads,
    )
    return results[0], results[1] if with_lse else None
