"""The forward kernel for Hopper: one block of threads for each head and tile of queries.

Two warpgroups compute 64 queries each, a third copies keys and values. While the tensor cores form
the scores of one block of keys and the output of the block before, a warpgroup has the softmax of
another to do, and the two take turns on the tensor cores (Shah et al. 2024, FlashAttention-3,
sections 3.1 and 3.2). Exponents are in base 2. Keys past the segment's end are masked, and values
there set to zero, in the last block alone.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from skipsr_jax.kernels.varlen_attention.pallas_gpu_parts import (
    GROUP_ROWS,
    GROUPS,
    LOG2_E,
    STAGES,
    WGMMA,
    Stream,
    before,
    copy_streams,
    launch,
    slot_of,
    spread,
    swizzled,
    write_rows,
    zero_from,
    zeros,
)
from skipsr_jax.kernels.varlen_attention.tiles import (
    SEGMENT_LENGTH,
    SEGMENT_START,
    TILE_COUNT,
    TILE_ROWS,
    TILE_START,
)
from skipsr_jax.types import Array, Float, Int

KEYS = 128  # of one block
PING_PONG = True


def _steps(length: Array) -> Array:
    return lax.div(length + (KEYS - 1), jnp.int32(KEYS))


def _row_values(value: float) -> Array:
    """A float32 for each query of a warpgroup."""
    return plgpu.layout_cast(jnp.full((GROUP_ROWS,), value, jnp.float32), WGMMA.reduce(1))


def _compute(table, q, k, v, out, lse, *, scale, held, streams):
    """What a computing warpgroup does."""
    del k, v
    keys, values = streams["k"], streams["v"]
    head, tile, group = (lax.axis_index(name) for name in ("head", "tile", "group"))
    start = table[tile, TILE_START] + group * GROUP_ROWS
    length = table[tile, SEGMENT_LENGTH]
    steps = _steps(length)
    q_mine = held["q"].at[group]
    plgpu.copy_gmem_to_smem(q.at[pl.ds(start, GROUP_ROWS), head], q_mine, held["q_ready"].at[group])
    turn = held["turn"]
    if PING_PONG:
        pl.when(group == 1)(lambda: plgpu.barrier_arrive(turn.at[0]))
    plgpu.barrier_wait(held["q_ready"].at[group])
    shape = (GROUP_ROWS, KEYS)

    def softmax(scores, peak, total):
        new_peak = jnp.maximum(peak, scores.max(axis=1) * (scale * LOG2_E))
        keep = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores * (scale * LOG2_E) - spread(new_peak, shape, 0))
        return weights.astype(q.dtype), new_peak, total * keep + weights.sum(axis=1), keep

    def scope(scores_acc, out_acc):
        def begin_scores(step):
            plgpu.barrier_wait(keys["ready"].at[slot_of(step)])
            scores_acc[...] = zeros(shape)
            plgpu.wgmma(scores_acc, q_mine, keys["shared"].at[slot_of(step)].T)

        def scores_of(step, in_flight, masked):
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=in_flight)
            plgpu.barrier_arrive(keys["free"].at[slot_of(step)])
            inside = before(length - step * KEYS, shape, 1) if masked else None
            return jnp.where(inside, scores, -jnp.inf) if masked else scores

        def advance(step, carry, masked):
            weights, peak, total = carry
            if PING_PONG:
                plgpu.barrier_wait(turn.at[group])
            begin_scores(step)
            plgpu.barrier_wait(values["ready"].at[slot_of(step - 1)])
            plgpu.wgmma(out_acc, weights, values["shared"].at[slot_of(step - 1)])
            if PING_PONG:
                plgpu.barrier_arrive(turn.at[1 - group])
            weights, peak, total, keep = softmax(scores_of(step, 1, masked), peak, total)
            so_far = plgpu.wgmma_accumulator_load(out_acc, wait_n=0)
            plgpu.barrier_arrive(values["free"].at[slot_of(step - 1)])
            out_acc[...] = so_far * spread(keep, so_far.shape, 0)
            return weights, peak, total

        first = jnp.int32(0)
        begin_scores(first)
        # One block alone is the last as well.
        start_values = (_row_values(-jnp.inf), _row_values(0.0))
        carry = softmax(scores_of(first, 0, True), *start_values)[:3]
        carry = lax.fori_loop(1, steps - 1, functools.partial(advance, masked=False), carry)
        last = jnp.maximum(steps - 1, 1)
        carry = lax.fori_loop(last, steps, functools.partial(advance, masked=True), carry)
        weights, peak, total = carry
        plgpu.barrier_wait(values["ready"].at[slot_of(steps - 1)])
        last_values = values["shared"].at[slot_of(steps - 1)]
        left = length - (steps - 1) * KEYS
        pl.when(left < KEYS)(lambda: zero_from(last_values, left))
        plgpu.wgmma(out_acc, weights, last_values)
        return plgpu.wgmma_accumulator_load(out_acc, wait_n=0), peak, total

    accumulators = (plgpu.ACC(shape), plgpu.ACC((GROUP_ROWS, q.shape[-1])))
    found, peak, total = pl.run_scoped(scope, *accumulators)
    if lse is not None:
        held["lse"][group] = peak + jnp.log2(total)
        plgpu.commit_smem()
        part = pl.ds(group * GROUP_ROWS, GROUP_ROWS)
        plgpu.copy_smem_to_gmem(held["lse"].at[group], lse.at[head, tile, part])
    found = (found / spread(total, found.shape, 0)).astype(q.dtype)
    count = jnp.clip(table[tile, TILE_COUNT] - group * GROUP_ROWS, 0, GROUP_ROWS)
    write_rows(found, out.at[:, head], start, count, q_mine, held["tail"].at[group])


def _copy(table, q, k, v, out, lse, *, held, streams):
    """What the copying warpgroup does: keys and values of the segment."""
    del q, out, lse, held
    head, tile = lax.axis_index("head"), lax.axis_index("tile")
    start = table[tile, SEGMENT_START]

    def stream(name, source):
        return Stream(
            block=lambda step: source.at[pl.ds(start + step * KEYS, KEYS), head], **streams[name]
        )

    copy_streams((stream("k", k), stream("v", v)), _steps(table[tile, SEGMENT_LENGTH]))


def forward(
    table: Int[Array, "t c"],
    q: Float[Array, "s a p"],
    k: Float[Array, "s a p"],
    v: Float[Array, "s a p"],
    *,
    scale: float,
    with_lse: bool,
) -> tuple[Float[Array, "s a p"], Float[Array, "a t r"] | None]:
    """Output, unwritten in rows of no segment; log2 of the sum of exponents by tile.

    The latter is without meaning in rows of a tile that are not its segment's.
    """
    heads, head_dim = q.shape[1:]
    free = plgpu.Barrier(num_barriers=STAGES, num_arrivals=GROUPS)
    stream = {
        "shared": swizzled((STAGES, KEYS, head_dim), q.dtype),
        "ready": plgpu.Barrier(num_barriers=STAGES),
        "free": free,
    }
    held = {
        "q": swizzled((GROUPS, GROUP_ROWS, head_dim), q.dtype),
        "q_ready": plgpu.Barrier(num_barriers=GROUPS),
        "turn": plgpu.Barrier(num_barriers=GROUPS),
        "tail": plgpu.SMEM((GROUPS, GROUP_ROWS, head_dim), q.dtype),
        "lse": plgpu.SMEM((GROUPS, GROUP_ROWS), jnp.float32),
    }
    out_type = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    if with_lse:
        by_tile = (heads, table.shape[0], TILE_ROWS)
        out_type.append(jax.ShapeDtypeStruct(by_tile, jnp.float32))

    def with_or_without(role):
        def run(*refs, **scratch):
            arrays = refs if with_lse else (*refs, None)
            role(*arrays, **scratch)

        return run

    found = launch(
        with_or_without(functools.partial(_compute, scale=scale)),
        with_or_without(_copy),
        (table, q, k, v),
        out_type,
        {"held": held, "streams": {"k": dict(stream), "v": dict(stream)}},
        heads,
    )
    return found[0], found[1] if with_lse else None
