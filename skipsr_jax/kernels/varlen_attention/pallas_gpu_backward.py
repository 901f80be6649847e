"""The backward kernels for Hopper: one for dq, one for dk and dv, so that nothing is added twice.

Both recompute the weights from the saved log2-sum-exp. For dq, queries and their gradients stand
still and keys and values go by; for dk and dv it is the other way round, with scores transposed so
that a row is a key. What stands still needs no mask, for rows past its segment's end are not
written. What goes by is masked in its last block, and zeroed there where it is a factor.
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
    SEGMENT_TILE,
    TILE_COUNT,
    TILE_ROWS,
    TILE_START,
)
from skipsr_jax.types import Array, Float, Int

BLOCK = 64  # rows of what goes by
SHAPE = (GROUP_ROWS, BLOCK)


def _steps(length: Array) -> Array:
    return lax.div(length + (BLOCK - 1), jnp.int32(BLOCK))


def _place(table):
    """Head, tile, warpgroup, this warpgroup's first row, and how many of its rows count."""
    head, tile, group = (lax.axis_index(name) for name in ("head", "tile", "group"))
    start = table[tile, TILE_START] + group * GROUP_ROWS
    count = jnp.clip(table[tile, TILE_COUNT] - group * GROUP_ROWS, 0, GROUP_ROWS)
    return head, tile, group, start, count


def _fetch(sources, held, group):
    """Copies what stands still for this warpgroup, and waits for all of it."""
    for name, source in sources.items():
        ready = held[name]["ready"].at[group]
        plgpu.copy_gmem_to_smem(source, held[name]["shared"].at[group], ready)
    for name in sources:
        plgpu.barrier_wait(held[name]["ready"].at[group])
    return [held[name]["shared"].at[group] for name in sources]


def _over_blocks(length, body):
    """``body(step, masked)`` for all blocks, the last one masked."""
    steps = _steps(length)
    pl.loop(0, steps - 1)(functools.partial(body, masked=False))
    body(steps - 1, masked=True)


def _begin(accumulator, mine, streams, name, step):
    """Begins ``mine @ block.T``."""
    plgpu.barrier_wait(streams[name]["ready"].at[slot_of(step)])
    accumulator[...] = zeros(SHAPE)
    plgpu.wgmma(accumulator, mine, streams[name]["shared"].at[slot_of(step)].T)


def _query_compute(table, q, k, v, d_out, lse, delta, d_q, *, scale, held, streams, free):
    del k, v
    head, tile, group, start, count = _place(table)
    length = table[tile, SEGMENT_LENGTH]
    rows, part = pl.ds(start, GROUP_ROWS), pl.ds(group * GROUP_ROWS, GROUP_ROWS)
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
        def body(step, masked):
            slot = slot_of(step)
            _begin(scores_acc, q_mine, streams, "k", step)
            _begin(slope_acc, d_mine, streams, "v", step)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            weights = jnp.exp2(scores * (scale * LOG2_E) - spread(lse_rows, SHAPE, 0))
            slopes = plgpu.wgmma_accumulator_load(slope_acc, wait_n=0)
            d_scores = weights * (slopes - spread(delta_rows, SHAPE, 0))
            keys = streams["k"]["shared"].at[slot]
            if masked:
                left = length - step * BLOCK
                d_scores = jnp.where(before(left, SHAPE, 1), d_scores, 0.0)
                pl.when(left < BLOCK)(lambda: zero_from(keys, left))
            plgpu.wgmma(d_q_acc, d_scores.astype(q.dtype), keys)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        _over_blocks(length, body)
        return d_q_acc[...]

    head_dim = q.shape[-1]
    grad = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC((GROUP_ROWS, head_dim))
    )
    write_rows(
        (grad * scale).astype(q.dtype),
        d_q.at[:, head],
        start,
        count,
        q_mine,
        held["tail"].at[group],
    )


def _query_copy(table, q, k, v, d_out, lse, delta, d_q, *, held, streams, free):
    del q, d_out, lse, delta, d_q, held
    head, tile = lax.axis_index("head"), lax.axis_index("tile")
    start = table[tile, SEGMENT_START]

    def stream(name, source):
        return Stream(
            block=lambda step: source.at[pl.ds(start + step * BLOCK, BLOCK), head],
            free=free,
            **streams[name],
        )

    copy_streams((stream("k", k), stream("v", v)), _steps(table[tile, SEGMENT_LENGTH]))


def _key_compute(table, q, k, v, d_out, lse, delta, d_k, d_v, *, scale, held, streams, free):
    del q, d_out, lse, delta
    head, tile, group, start, count = _place(table)
    length = table[tile, SEGMENT_LENGTH]
    rows = pl.ds(start, GROUP_ROWS)
    k_mine, v_mine = _fetch({"k": k.at[rows, head], "v": v.at[rows, head]}, held, group)
    dtype = k.dtype

    def of_queries(name, slot):
        """A float32 for each query of the block, along the columns."""
        plgpu.barrier_wait(streams[name]["ready"].at[slot])
        values = plgpu.layout_cast(streams[name]["shared"][slot], WGMMA.reduce(0))
        return spread(values, SHAPE, 1)

    def scope(scores_acc, slope_acc, d_k_acc, d_v_acc):
        def body(step, masked):
            slot = slot_of(step)
            left = length - step * BLOCK
            queries, d_outs = (streams[name]["shared"].at[slot] for name in ("q", "d_out"))
            _begin(scores_acc, k_mine, streams, "q", step)
            _begin(slope_acc, v_mine, streams, "d_out", step)
            lse_columns = of_queries("lse", slot)
            scores = plgpu.wgmma_accumulator_load(scores_acc, wait_n=1)
            weights = jnp.exp2(scores * (scale * LOG2_E) - lse_columns)
            delta_columns = of_queries("delta", slot)
            slopes = plgpu.wgmma_accumulator_load(slope_acc, wait_n=0)
            d_scores = weights * (slopes - delta_columns)
            if masked:
                inside = before(left, SHAPE, 1)
                weights = jnp.where(inside, weights, 0.0)
                d_scores = jnp.where(inside, d_scores, 0.0)
                pl.when(left < BLOCK)(lambda: zero_from(queries, left))
                pl.when(left < BLOCK)(lambda: zero_from(d_outs, left))
            plgpu.wgmma(d_v_acc, weights.astype(dtype), d_outs)
            plgpu.wgmma(d_k_acc, d_scores.astype(dtype), queries)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        _over_blocks(length, body)
        return d_k_acc[...], d_v_acc[...]

    wide = (GROUP_ROWS, k.shape[-1])
    grad_k, grad_v = pl.run_scoped(
        scope, plgpu.ACC(SHAPE), plgpu.ACC(SHAPE), plgpu.ACC(wide), plgpu.ACC(wide)
    )
    tail = held["tail"].at[group]
    write_rows((grad_k * scale).astype(dtype), d_k.at[:, head], start, count, k_mine, tail)
    write_rows(grad_v.astype(dtype), d_v.at[:, head], start, count, v_mine, tail)


def _key_copy(table, q, k, v, d_out, lse, delta, d_k, d_v, *, held, streams, free):
    del k, v, d_k, d_v, held
    head, tile = lax.axis_index("head"), lax.axis_index("tile")
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
    copy_streams(found, _steps(table[tile, SEGMENT_LENGTH]))


def _stream(shape, dtype=None):
    """Buffers of one array that goes by; plain float32 without a dtype."""
    whole = (STAGES, *shape)
    return {
        "shared": plgpu.SMEM(whole, jnp.float32) if dtype is None else swizzled(whole, dtype),
        "ready": plgpu.Barrier(num_barriers=STAGES),
    }


def _still(shape, dtype=None):
    """Memory of one array that stands still."""
    whole = (GROUPS, *shape)
    return {
        "shared": plgpu.SMEM(whole, jnp.float32) if dtype is None else swizzled(whole, dtype),
        "ready": plgpu.Barrier(num_barriers=GROUPS),
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
                "q": _still(wide, q.dtype),
                "d_out": _still(wide, q.dtype),
                "lse": _still((GROUP_ROWS,)),
                "delta": _still((GROUP_ROWS,)),
                "tail": tail,
            },
            "streams": {"k": _stream(block, q.dtype), "v": _stream(block, q.dtype)},
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
            "held": {"k": _still(wide, q.dtype), "v": _still(wide, q.dtype), "tail": tail},
            "streams": {
                "q": _stream(block, q.dtype),
                "d_out": _stream(block, q.dtype),
                "lse": _stream((BLOCK,)),
                "delta": _stream((BLOCK,)),
            },
            "free": free,
        },
        heads,
    )
    return d_q, d_k, d_v
