"""The plain XLA version: blocked, exact, runs everywhere, and the reference for every other one.

Rows are cut into blocks. All blocks of queries go forward together; step j of a loop gives each
of them the j-th block of keys that its segments touch, and folds it into a running softmax
(Dao 2023, FlashAttention-2). The loop ends when the longest span is done, so the cost follows the
segments while the bounds stay run-time data. The backward pass recomputes the scores from the saved
log-sum-exp: one loop over keys for dq, one over queries for dk and dv, because q and k share their
segments. Nothing is scattered, so results repeat bit for bit, and no rows x rows array exists.

Forward-mode and second derivatives are not defined.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.attention.segments import row_bounds
from skipsr_jax.kernels.target import Target
from skipsr_jax.types import Bool, Float, Int

BLOCK_ROWS = 128
SCORE_BYTES = 2**28  # of scores alive at once; longer sequences go through in chunks of blocks
_MASKED = -1e30  # finite, so that a fully masked row gives exp(0) * 0 and never inf - inf


class _Spans(NamedTuple):
    """Which rows each row sees, and which blocks each block of rows has to visit."""

    start: Int[Array, "b k r"]
    end: Int[Array, "b k r"]
    first: Int[Array, "b k"]
    count: Int[Array, "b k"]


def supported(problem: Problem, target: Target) -> str | None:
    """Always."""
    del problem, target


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _matmul(spec: str, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sums in float32 or better; float32 operands are not cut down to TF32 or bfloat16."""
    precision = lax.Precision.HIGHEST if x.dtype.itemsize > 2 else None
    kind = _accumulator(x.dtype)
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=kind)


def _to_blocks(x: Array, blocks: int, block_rows: int) -> Array:
    """(b, s, a, ...) -> (b, a, k, r, ...), zero rows added at the end."""
    x = jnp.pad(x, [(0, 0), (0, blocks * block_rows - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], blocks, block_rows, *x.shape[2:])
    return jnp.moveaxis(x, 3, 1)


def _from_blocks(x: Array, rows: int) -> Array:
    """(b, a, k, r, ...) -> (b, s, a, ...)."""
    x = jnp.moveaxis(x, 1, 3)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :rows]


def _spans(
    start: Int[Array, "b s"], end: Int[Array, "b s"], blocks: int, block_rows: int
) -> _Spans:
    pad = ((0, 0), (0, blocks * block_rows - start.shape[1]))
    start = jnp.pad(start, pad).reshape(-1, blocks, block_rows)
    end = jnp.pad(end, pad).reshape(-1, blocks, block_rows)
    inside = end > start
    first = jnp.where(inside, start, blocks * block_rows).min(axis=2) // block_rows
    last = -(-jnp.where(inside, end, 0).max(axis=2) // block_rows)
    return _Spans(start, end, first, jnp.maximum(last - first, 0))


def _visit(
    spans: _Spans,
    others: tuple[Array, ...],
    step: Callable[[tuple[Array, ...], tuple[Array, ...], Bool[Array, "b 1 k r t"]], tuple],
    state: tuple[Array, ...],
) -> tuple[Array, ...]:
    """Fold every block that these spans touch into ``state``.

    ``step(state, others_j, seen)`` gets the j-th touched block of each of ``others``
    (b, a, blocks, t, ...) and which of its rows t each row r sees.
    """
    blocks, block_rows = others[0].shape[2:4]

    def body(j, state):
        index = jnp.minimum(spans.first + j, blocks - 1)
        taken = tuple(jax.vmap(lambda x, i: x[:, i])(x, index) for x in others)
        position = index[:, :, None] * block_rows + jnp.arange(block_rows, dtype=jnp.int32)
        position = position[:, :, None, :]  # b k 1 t
        seen = (position >= spans.start[..., None]) & (position < spans.end[..., None])
        seen &= (j < spans.count)[:, :, None, None]
        return step(state, taken, seen[:, None])

    return lax.fori_loop(0, spans.count.max(), body, state)


def _in_chunks(
    run: Callable[[_Spans, tuple[Array, ...]], tuple[Array, ...]],
    spans: _Spans,
    own: tuple[Array, ...],
) -> tuple[Array, ...]:
    """``run(spans, own)`` over chunks of blocks, so that the scores stay under SCORE_BYTES."""
    packs, heads, blocks, block_rows = own[0].shape[:4]
    score_bytes = packs * heads * block_rows**2 * _accumulator(own[0].dtype).itemsize
    chunks = -(-blocks // max(1, SCORE_BYTES // score_bytes))
    if chunks == 1:
        return run(spans, own)
    size = -(-blocks // chunks)

    def split(x, axis):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, size * chunks - blocks)
        x = jnp.pad(x, pad)
        x = x.reshape(*x.shape[:axis], chunks, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], chunks * size, *x.shape[4:])[:, :, :blocks]

    pieces = (_Spans(*(split(x, 1) for x in spans)), tuple(split(x, 2) for x in own))
    return tuple(join(x) for x in lax.map(lambda piece: run(*piece), pieces))


def _forward_blocks(
    spans: _Spans,
    q: Float[Array, "b a k r p"],
    keys: Float[Array, "b a j t p"],
    values: Float[Array, "b a j t p"],
    scale: float,
) -> tuple[Float[Array, "b a k r p"], Float[Array, "b a k r"]]:
    """Attention output in the accumulator's dtype and log-sum-exp; 0 for rows that see nothing."""

    def step(state, taken, seen):
        out, peak, total = state
        k, v = taken
        scores = jnp.where(seen, _matmul("bakrp,baktp->bakrt", q, k) * scale, _MASKED)
        new_peak = jnp.maximum(peak, scores.max(axis=-1))
        weights = jnp.where(seen, jnp.exp(scores - new_peak[..., None]), 0)
        keep = jnp.exp(peak - new_peak)
        out = out * keep[..., None] + _matmul("bakrt,baktp->bakrp", weights.astype(v.dtype), v)
        return out, new_peak, total * keep + weights.sum(axis=-1)

    # Built from q, not from shapes, so that inside shard_map the loop's state varies as q does.
    zero = jnp.zeros_like(q, dtype=_accumulator(q.dtype))
    state = (zero, zero[..., 0] + _MASKED, zero[..., 0])
    out, peak, total = _visit(spans, (keys, values), step, state)
    some = total > 0
    safe = jnp.where(some, total, 1)
    return out / safe[..., None], jnp.where(some, peak + jnp.log(safe), 0)


def _query_gradient(
    spans: _Spans,
    own: tuple[Array, ...],
    keys: Float[Array, "b a j t p"],
    values: Float[Array, "b a j t p"],
    scale: float,
) -> Float[Array, "b a k r p"]:
    q, d_out, lse, delta = own

    def step(state, taken, seen):
        k, v = taken
        scores = _matmul("bakrp,baktp->bakrt", q, k) * scale
        weights = jnp.where(seen, jnp.exp(scores - lse[..., None]), 0)
        slope = weights * (_matmul("bakrp,baktp->bakrt", d_out, v) - delta[..., None]) * scale
        return (state[0] + _matmul("bakrt,baktp->bakrp", slope.astype(k.dtype), k),)

    return _visit(spans, (keys, values), step, (jnp.zeros_like(q, dtype=lse.dtype),))[0]


def _key_value_gradients(
    spans: _Spans,
    own: tuple[Array, ...],
    queries: tuple[Array, ...],
    scale: float,
) -> tuple[Float[Array, "b a k r p"], Float[Array, "b a k r p"]]:
    """Keys stand still (r) and the queries that see them go by (t)."""
    k, v = own

    def step(state, taken, seen):
        q, d_out, lse, delta = taken
        scores = _matmul("bakrp,baktp->bakrt", k, q) * scale
        weights = jnp.where(seen, jnp.exp(scores - lse[..., None, :]), 0)
        slope = weights * (_matmul("bakrp,baktp->bakrt", v, d_out) - delta[..., None, :]) * scale
        d_k = state[0] + _matmul("bakrt,baktp->bakrp", slope.astype(q.dtype), q)
        d_v = state[1] + _matmul("bakrt,baktp->bakrp", weights.astype(d_out.dtype), d_out)
        return d_k, d_v

    zero = jnp.zeros_like(k, dtype=queries[2].dtype)
    return _visit(spans, queries, step, (zero, zero))


def _prepare(cu_seqlens, rows, block_rows, arrays):
    """Row bounds as spans, and the arrays in blocks with rows outside every segment set to zero."""
    start, end, inside = row_bounds(cu_seqlens, rows)
    blocks = -(-rows // block_rows)
    # Select, never multiply: those rows may hold NaN.
    clean = (jnp.where(inside[:, :, None, None], x, 0) for x in arrays)
    blocked = tuple(_to_blocks(x, blocks, block_rows) for x in clean)
    return _spans(start, end, blocks, block_rows), blocked


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q, k, v, cu_seqlens, scale, block_rows):
    return _attention_forward(q, k, v, cu_seqlens, scale, block_rows)[0]


def _attention_forward(q, k, v, cu_seqlens, scale, block_rows):
    rows = q.shape[1]
    spans, (qs, ks, vs) = _prepare(cu_seqlens, rows, block_rows, (q, k, v))
    out, lse = _in_chunks(
        lambda part, own: _forward_blocks(part, own[0], ks, vs, scale), spans, (qs,)
    )
    out = _from_blocks(out, rows).astype(q.dtype)
    return out, (q, k, v, cu_seqlens, out, lse)


def _attention_backward(scale, block_rows, saved, d_out):
    q, k, v, cu_seqlens, out, lse = saved
    rows = q.shape[1]
    spans, (qs, ks, vs, ds, os) = _prepare(cu_seqlens, rows, block_rows, (q, k, v, d_out, out))
    delta = jnp.sum(ds.astype(lse.dtype) * os.astype(lse.dtype), axis=-1)
    queries = (qs, ds, lse, delta)
    (d_q,) = _in_chunks(
        lambda part, own: (_query_gradient(part, own, ks, vs, scale),), spans, queries
    )
    d_k, d_v = _in_chunks(
        lambda part, own: _key_value_gradients(part, own, queries, scale), spans, (ks, vs)
    )
    grads = (_from_blocks(g, rows).astype(x.dtype) for g, x in ((d_q, q), (d_k, k), (d_v, v)))
    return *grads, None


_attention.defvjp(_attention_forward, _attention_backward)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
    block_rows: int = BLOCK_ROWS,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; ``block_rows`` sets the work per loop step, not the result."""
    block_rows = min(block_rows, -(-q.shape[1] // 8) * 8)
    return _attention(q, k, v, cu_seqlens, float(scale), block_rows)
