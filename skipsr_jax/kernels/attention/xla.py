"""Attention over packed segments in plain XLA: blocked, exact, on any device; the reference.

Rows are cut into blocks. All blocks of queries are stationary together, and step j of a loop
streams to each of them the j-th block of keys that its segments touch, and folds it into a running
softmax (Dao 2023, FlashAttention-2). The loop ends when the longest span is done, so the cost
follows the segments while the bounds stay run-time data. The backward pass recomputes the scores
from the saved log-sum-exp: one loop over keys for dq, one over queries for dk and dv, because q and
k share their segments. Nothing is scattered, so results repeat bit for bit, and no rows x rows
array exists.

Forward-mode and second derivatives are not defined.

Letters in einsum strings, beside those of all signatures: ``j`` blocks of rows, ``s`` rows of a
stationary block, ``z`` rows of a streamed one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention.residuals import named_residuals
from skipsr_jax.kernels.attention.segments import row_bounds
from skipsr_jax.types import Bool, Float, Int

BLOCK_ROWS = 128
SCORE_BYTES = 2**28  # of scores alive at once; longer sequences run in chunks of blocks
_MASKED = -1e30  # finite, so that a fully masked row gives exp(0) * 0 and never inf - inf


class _Spans(NamedTuple):
    """The rows [start, end) that each row sees, and the blocks that each block of rows streams."""

    start: Int[Array, "b blocks rows"]
    end: Int[Array, "b blocks rows"]
    first: Int[Array, "b blocks"]
    count: Int[Array, "b blocks"]


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _matmul(spec: str, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sums in float32 or better; float32 operands are not cut down to TF32 or bfloat16."""
    precision = lax.Precision.HIGHEST if x.dtype.itemsize > 2 else None
    dtype = _accumulator(x.dtype)
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=dtype)


def _to_blocks(x: Array, blocks: int, block_rows: int) -> Array:
    """(b, s, a, ...) -> (b, a, blocks, rows, ...), with zero rows added at the end."""
    x = jnp.pad(x, [(0, 0), (0, blocks * block_rows - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], blocks, block_rows, *x.shape[2:])
    return jnp.moveaxis(x, 3, 1)


def _from_blocks(x: Array, rows: int) -> Array:
    """(b, a, blocks, rows, ...) -> (b, s, a, ...)."""
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


def _stream_blocks(
    spans: _Spans,
    streamed: tuple[Array, ...],
    step: Callable[
        [tuple[Array, ...], tuple[Array, ...], Bool[Array, "b 1 blocks rows streamed_rows"]], tuple
    ],
    state: tuple[Array, ...],
) -> tuple[Array, ...]:
    """Folds every block that these spans touch into ``state``.

    ``step(state, blocks_j, visible)`` gets the j-th touched block of each of the ``streamed``
    operands (b, a, blocks, rows, ...), and which of its rows each stationary row sees.
    """
    blocks, block_rows = streamed[0].shape[2:4]

    def body(j, state):
        index = jnp.minimum(spans.first + j, blocks - 1)
        taken = tuple(jax.vmap(lambda x, i: x[:, i])(x, index) for x in streamed)
        position = index[:, :, None] * block_rows + jnp.arange(block_rows, dtype=jnp.int32)
        position = position[:, :, None, :]  # b blocks 1 streamed_rows
        visible = (position >= spans.start[..., None]) & (position < spans.end[..., None])
        visible &= (j < spans.count)[:, :, None, None]
        return step(state, taken, visible[:, None])

    return lax.fori_loop(0, spans.count.max(), body, state)


def _in_chunks(
    run: Callable[[_Spans, tuple[Array, ...]], tuple[Array, ...]],
    spans: _Spans,
    stationary: tuple[Array, ...],
) -> tuple[Array, ...]:
    """``run(spans, stationary)`` over chunks of blocks, so that scores stay under SCORE_BYTES."""
    packs, heads, blocks, block_rows = stationary[0].shape[:4]
    score_bytes = packs * heads * block_rows**2 * _accumulator(stationary[0].dtype).itemsize
    chunks = -(-blocks // max(1, SCORE_BYTES // score_bytes))
    if chunks == 1:
        return run(spans, stationary)
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

    pieces = (_Spans(*(split(x, 1) for x in spans)), tuple(split(x, 2) for x in stationary))
    return tuple(join(x) for x in lax.map(lambda piece: run(*piece), pieces))


def _forward_blocks(
    spans: _Spans,
    q: Float[Array, "b a chunk rows p"],
    keys: Float[Array, "b a blocks rows p"],
    values: Float[Array, "b a blocks rows p"],
    scale: float,
) -> tuple[Float[Array, "b a chunk rows p"], Float[Array, "b a chunk rows"]]:
    """Attention output in the accumulator's dtype and log-sum-exp; 0 for rows that see nothing."""

    def step(state, taken, visible):
        out, peak, total = state
        k, v = taken
        scores = jnp.where(visible, _matmul("bajsp,bajzp->bajsz", q, k) * scale, _MASKED)
        new_peak = jnp.maximum(peak, scores.max(axis=-1))
        weights = jnp.where(visible, jnp.exp(scores - new_peak[..., None]), 0)
        keep = jnp.exp(peak - new_peak)
        out = out * keep[..., None] + _matmul("bajsz,bajzp->bajsp", weights.astype(v.dtype), v)
        return out, new_peak, total * keep + weights.sum(axis=-1)

    # Built from q, not from shapes, so that inside shard_map the loop's state varies as q does.
    zero = jnp.zeros_like(q, dtype=_accumulator(q.dtype))
    state = (zero, zero[..., 0] + _MASKED, zero[..., 0])
    out, peak, total = _stream_blocks(spans, (keys, values), step, state)
    some = total > 0
    safe = jnp.where(some, total, 1)
    return out / safe[..., None], jnp.where(some, peak + jnp.log(safe), 0)


def _query_gradient(
    spans: _Spans,
    stationary: tuple[Array, ...],
    keys: Float[Array, "b a blocks rows p"],
    values: Float[Array, "b a blocks rows p"],
    scale: float,
) -> Float[Array, "b a chunk rows p"]:
    q, d_out, lse, delta = stationary

    def step(state, taken, visible):
        k, v = taken
        scores = _matmul("bajsp,bajzp->bajsz", q, k) * scale
        weights = jnp.where(visible, jnp.exp(scores - lse[..., None]), 0)
        slope = weights * (_matmul("bajsp,bajzp->bajsz", d_out, v) - delta[..., None]) * scale
        return (state[0] + _matmul("bajsz,bajzp->bajsp", slope.astype(k.dtype), k),)

    return _stream_blocks(spans, (keys, values), step, (jnp.zeros_like(q, dtype=lse.dtype),))[0]


def _key_value_gradients(
    spans: _Spans,
    stationary: tuple[Array, ...],
    queries: tuple[Array, ...],
    scale: float,
) -> tuple[Float[Array, "b a chunk rows p"], Float[Array, "b a chunk rows p"]]:
    """Keys and values are stationary, and the queries that see them are streamed."""
    k, v = stationary

    def step(state, taken, visible):
        q, d_out, lse, delta = taken
        scores = _matmul("bajsp,bajzp->bajsz", k, q) * scale
        weights = jnp.where(visible, jnp.exp(scores - lse[..., None, :]), 0)
        slope = weights * (_matmul("bajsp,bajzp->bajsz", v, d_out) - delta[..., None, :]) * scale
        d_k = state[0] + _matmul("bajsz,bajzp->bajsp", slope.astype(q.dtype), q)
        d_v = state[1] + _matmul("bajsz,bajzp->bajsp", weights.astype(d_out.dtype), d_out)
        return d_k, d_v

    zero = jnp.zeros_like(k, dtype=queries[2].dtype)
    return _stream_blocks(spans, queries, step, (zero, zero))


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
        lambda spans, chunk: _forward_blocks(spans, chunk[0], ks, vs, scale), spans, (qs,)
    )
    out, lse = named_residuals(_from_blocks(out, rows).astype(q.dtype), lse)
    return out, (q, k, v, cu_seqlens, out, lse)


def _attention_backward(scale, block_rows, saved, d_out):
    q, k, v, cu_seqlens, out, lse = saved
    rows = q.shape[1]
    spans, (qs, ks, vs, ds, os) = _prepare(cu_seqlens, rows, block_rows, (q, k, v, d_out, out))
    delta = jnp.sum(ds.astype(lse.dtype) * os.astype(lse.dtype), axis=-1)
    queries = (qs, ds, lse, delta)
    (d_q,) = _in_chunks(
        lambda spans, chunk: (_query_gradient(spans, chunk, ks, vs, scale),), spans, queries
    )
    d_k, d_v = _in_chunks(
        lambda spans, chunk: _key_value_gradients(spans, chunk, queries, scale), spans, (ks, vs)
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
