"""The backward kernels for Hopper: one for dq, one for dk and dv, so that nothing is added twice.

Both recompute the weights from the saved log2-sum-exp. For dq, queries and their gradients stand
still and keys and values go by; for dk and dv it is the other way round, with scores transposed so
that a row is a key. What stands still needs no mask, for rows past its segment's end are not
written. What goes by is masked in its last block, and zeroed there where it is a factor.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from skipsr_jax.kernels.attention.gpu_tiled import LOG2_E
from skipsr_jax.kernels.attention.gpu_tiles import (
    SEGMENT_BEGIN,
    SEGMENT_END,
    SEGMENT_START,
    SEGMENT_TILE,
    TILE_ROWS,
)
from skipsr_jax.kernels.attention.hopper.parts import (
    GROUP_ROWS,
    GROUPS,
    STAGES,
    WGMMA,
    Stream,
    between,
    copy_streams,
    launch,
    own_rows,
    slot_of,
    spread,
    steps_of,
    swizzled,
    write_rows,
    zero_outside,
    zeros,
)
from skipsr_jax.types import Float, Int

BLOCK = 64  # rows of what goes by
SHAPE = (GROUP_ROWS, BLOCK)


def _fetch(sources, held, group):
    """Copies what stands still for this warpgroup, and waits for all of it."""
    for name, source in sources.items():
        ready = held[name]["ready"].at[group]
        plgpu.copy_gmem_to_smem(source, held[name]["shared"].at[group], ready)
    for name in sources:
        plgpu.barrier_wait(held[name]["ready"].at[group])
    return [held[name]["shared"].at[group] for name in sources]


def _over_blocks(table, tile, body):
    """``body(step, ends)`` for all blocks; ``ends`` are the segment's bounds in the first and last.

    Counted in rows from the block's first; None where all of the block is the segment's. Gives the
    number of blocks.
    """
    steps, start = steps_of(table, tile, BLOCK), table[tile, SEGMENT_START]

    def edge(step):
        row = start + step * BLOCK
        body(step, (table[tile, SEGMENT_BEGIN] - row, table[tile, SEGMENT_END] - row))

    edge(jnp.int32(0))
    pl.loop(1, steps - 1)(lambda step: body(step, None))
    pl.loop(jnp.maximum(steps - 1, 1), steps)(edge)
    return steps


def _begin(accumulator, mine, stream, slot):
    """Begins ``mine @ block.T``."""
    plgpu.barrier_wait(stream["ready"].at[slot])
    accumulator[...] = zeros(SHAPE)
    plgpu.wgmma(accumulator, mine, stream["shared"].at[slot].T)


def _query_compute(
    head, tile, done, table, q, k, v, d_out, lse, delta, d_q, *, scale, held, streams, free
):
    del k, v
    group = lax.axis_index("group")
    own = own_rows(table, tile, group)
    rows, part = pl.ds(own.start, GROUP_ROWS), pl.ds(group * GROUP_ROWS, GROUP_ROWS)
    sources = {
        "q": q.at[rows, head],
        "d_out": d_out.at[rows, head],
        "lse": lse.at[head, tile, part],
        "delta": delta.at[head, tile, part],
    }
    q_mine, d_mine, lse_mine, delta_mine = _fetch(sources, held, group)
    lse_rows = plgpu.layout_cast(lse_mine[...], WGMMA.reduce(1))
    delta_rows = plgpu.layout_cast(delta_mine[...], WGMMA.reduce(1))

    def scope(scores_acc, slope_acc, d_q_acc):
        def body(step, ends):
            slot = slot_of(done + step)
            _begin(scores_acc, q_mine, streams["k"], slot)
            _begin(slope_acc, d_mine, streams["v"], slot)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            weights = jnp.exp2(scores * (scale * LOG2_E) - spread(lse_rows, SHAPE, 0))
            slopes = plgpu.wgmma_accumulator_load(slope_acc, wait_n=0)
            d_scores = weights * (slopes - spread(delta_rows, SHAPE, 0))
            keys = streams["k"]["shared"].at[slot]
            if ends is not None:
                d_scores = jnp.where(between(*ends, SHAPE, 1), d_scores, 0.0)
                zero_outside(keys, *ends)
            plgpu.wgmma(d_q_acc, d_scores.astype(q.dtype), keys)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        return _over_blocks(table, tile, body), d_q_acc[...]

    head_dim = q.shape[-1]
    steps, grad = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC((GROUP_ROWS, head_dim))
    )
    tail = held["tail"].at[group]
    write_rows((grad * scale).astype(q.dtype), d_q.at[:, head], own, q_mine, tail)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    return steps


def _query_copy(head, tile, done, table, q, k, v, d_out, lse, delta, d_q, *, held, streams, free):
    del q, d_out, lse, delta, d_q, held
    start = table[tile, SEGMENT_START]

    def stream(name, source):
        return Stream(
            block=lambda step: source.at[pl.ds(start + step * BLOCK, BLOCK), head],
            free=free,
            **streams[name],
        )

    steps = steps_of(table, tile, BLOCK)
    copy_streams((stream("k", k), stream("v", v)), steps, done)
    return steps


def _key_compute(
    head, tile, done, table, q, k, v, d_out, lse, delta, d_k, d_v, *, scale, held, streams, free
):
    del q, d_out, lse, delta
    group = lax.axis_index("group")
    own = own_rows(table, tile, group)
    rows = pl.ds(own.start, GROUP_ROWS)
    k_mine, v_mine = _fetch({"k": k.at[rows, head], "v": v.at[rows, head]}, held, group)
    dtype = k.dtype

    def of_queries(name, slot):
        """A float32 for each query of the block, along the columns."""
        plgpu.barrier_wait(streams[name]["ready"].at[slot])
        values = plgpu.layout_cast(streams[name]["shared"][slot], WGMMA.reduce(0))
        return spread(values, SHAPE, 1)

    def scope(scores_acc, slope_acc, d_k_acc, d_v_acc):
        def body(step, ends):
            slot = slot_of(done + step)
            queries, d_outs = (streams[name]["shared"].at[slot] for name in ("q", "d_out"))
            _begin(scores_acc, k_mine, streams["q"], slot)
            _begin(slope_acc, v_mine, streams["d_out"], slot)
            lse_columns = of_queries("lse", slot)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            # Rounded at once: as float32 they would not fit into the registers.
            weights = jnp.exp2(scores * (scale * LOG2_E) - lse_columns).astype(dtype)
            delta_columns = of_queries("delta", slot)
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
            plgpu.barrier_arrive(free.at[slot])

        return _over_blocks(table, tile, body), d_k_acc[...], d_v_acc[...]

    wide = (GROUP_ROWS, k.shape[-1])
    steps, grad_k, grad_v = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC(wide), plgpu.ACC(wide)
    )
    tail = held["tail"].at[group]
    write_rows((grad_k * scale).astype(dtype), d_k.at[:, head], own, k_mine, tail)
    write_rows(grad_v.astype(dtype), d_v.at[:, head], own, v_mine, tail)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    return steps


def _key_copy(
    head, tile, done, table, q, k, v, d_out, lse, delta, d_k, d_v, *, held, streams, free
):
    del k, v, d_k, d_v, held
    start, first = table[tile, SEGMENT_START], table[tile, SEGMENT_TILE]

    def rows(source):
        return lambda step: source.at[pl.ds(start + step * BLOCK, BLOCK), head]

    def by_tile(source):
        def block(step):
            row = step * BLOCK
            within = pl.ds(lax.rem(row, jnp.int32(TILE_ROWS)), BLOCK)
            return source.at[head, first + lax.div(row, jnp.int32(TILE_ROWS)), within]

        return block

    blocks = {"q": rows(q), "d_out": rows(d_out), "lse": by_tile(lse), "delta": by_tile(delta)}
    found = tuple(Stream(block=block, free=free, **streams[name]) for name, block in blocks.items())
    steps = steps_of(table, tile, BLOCK)
    copy_streams(found, steps, done)
    return steps


def _buffers(number, shape, dtype=None):
    """Memory of one array, so many times, and when each is there; float32 without a dtype.

    GROUPS of what stands still, STAGES of what goes by.
    """
    whole = (number, *shape)
    return {
        "shared": plgpu.SMEM(whole, jnp.float32) if dtype is None else swizzled(whole, dtype),
        "ready": plgpu.Barrier(num_barriers=number),
    }


def backward(
    table: Int[Array, "t c"],
    q: Float[Array, "s a p"],
    k: Float[Array, "s a p"],
    v: Float[Array, "s a p"],
    d_out: Float[Array, "s a p"],
    lse: Float[Array, "a t r"],
    delta: Float[Array, "a t r"],
    *,
    scale: float,
) -> tuple[Float[Array, "s a p"], Float[Array, "s a p"], Float[Array, "s a p"]]:
    """Gradients of q, k and v, unwritten in rows of no segment.

    ``lse`` as ``forward`` gives it and ``delta``, the dot product of output and its gradient, by
    tile.
    """
    _, heads, head_dim = q.shape
    operands = (table, q, k, v, d_out, lse, delta)
    grad = jax.ShapeDtypeStruct(q.shape, q.dtype)
    wide, block = (GROUP_ROWS, head_dim), (BLOCK, head_dim)
    free = plgpu.Barrier(num_barriers=STAGES, num_arrivals=GROUPS)
    tail = plgpu.SMEM((GROUPS, GROUP_ROWS, head_dim), q.dtype)
    (d_q,) = launch(
        functools.partial(_query_compute, scale=scale),
        _query_copy,
        operands,
        [grad],
        {
            "held": {
                "q": _buffers(GROUPS, wide, q.dtype),
                "d_out": _buffers(GROUPS, wide, q.dtype),
                "lse": _buffers(GROUPS, (GROUP_ROWS,)),
                "delta": _buffers(GROUPS, (GROUP_ROWS,)),
                "tail": tail,
            },
            "streams": {
                "k": _buffers(STAGES, block, q.dtype),
                "v": _buffers(STAGES, block, q.dtype),
            },
            "free": free,
        },
        heads,
    )
    d_k, d_v = launch(
        functools.partial(_key_compute, scale=scale),
        _key_copy,
        operands,
        [grad, grad],
        {
            "held": {
                "k": _buffers(GROUPS, wide, q.dtype),
                "v": _buffers(GROUPS, wide, q.dtype),
                "tail": tail,
            },
            "streams": {
                "q": _buffers(STAGES, block, q.dtype),
                "d_out": _buffers(STAGES, block, q.dtype),
                "lse": _buffers(STAGES, (BLOCK,)),
                "delta": _buffers(STAGES, (BLOCK,)),
            },
            "free": free,
        },
        heads,
    )
    return d_q, d_k, d_v
