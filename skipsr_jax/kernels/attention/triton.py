"""Attention over packed segments for NVIDIA GPUs from Ampere on, in Pallas (Triton).

Segments are cut into tiles of their own (``gpu_tile_table``). A program for each head and tile
streams the rows of the tile's segment; those of the tile are stationary. Loads and stores are
masked at the segment's end, so nothing else is read or written. Backward, one kernel computes dq
and one dk and dv, with nothing added twice: results repeat bit for bit. ``interpret`` runs the
kernels without a GPU.

Pallas on Triton is deprecated since jax 0.11. It serves GPUs that cuDNN's packed layout leaves out.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention.gpu_tile_table import (
    ROW_BEGIN,
    ROW_END,
    SEGMENT_BEGIN,
    SEGMENT_END,
    SEGMENT_START,
    SEGMENT_TILE,
    TILE_ROWS,
    TILE_START,
)
from skipsr_jax.kernels.attention.gpu_tiled_attention import LOG2_E, Kernels, tiled_attention
from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

BLOCK = 64  # streamed rows at a time, forward
BACKWARD_BLOCK = 32  # and backward
WARPS, STAGES = 8, 2


def supported(problem: Problem, target: Target) -> str | None:
    """None when the Triton kernels can run this problem, else the reason."""
    refused = gpu_refusal(problem.dtype, target, "it needs compute capability 8.0 (Ampere)", (8, 0))
    if refused is None and problem.head_dim > WIDTHS[-1]:
        return f"head_dim must be at most {WIDTHS[-1]}, not {problem.head_dim}"
    return refused


def _load_rows(ref, start, rows, head, inside):
    """``rows`` rows of a head from ``start`` on, zeros where not ``inside`` (None: all are)."""
    part = ref.at[pl.ds(start, rows), head, :]
    if inside is None:
        return plgpu.load(part)
    mask = jnp.broadcast_to(inside[:, None], (rows, ref.shape[-1]))
    return plgpu.load(part, mask=mask, other=0.0)


def _store_rows(ref, start, inside, head, value):
    """Stores a tile of a head from row ``start`` on, where ``inside``."""
    mask = jnp.broadcast_to(inside[:, None], value.shape)
    plgpu.store(ref.at[pl.ds(start, TILE_ROWS), head, :], value.astype(ref.dtype), mask=mask)


def _matmul(a, b):
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _tile_bounds(table, tile):
    """First row of the tile, which of its rows are the segment's, and the segment's bounds."""
    start = table[tile, TILE_START]
    row = start + jnp.arange(TILE_ROWS)
    inside = (row >= table[tile, ROW_BEGIN]) & (row < table[tile, ROW_END])
    return start, inside, table[tile, SEGMENT_BEGIN], table[tile, SEGMENT_END]


def _over_blocks(block, begin, end, body, carry):
    """Folds ``body(row, inside, carry)`` over blocks; ``inside`` is None in all but the last."""
    whole = lax.div(end - begin - 1, block)
    carry = lax.fori_loop(0, whole, lambda i, carry: body(begin + i * block, None, carry), carry)
    row = begin + whole * block
    return body(row, row + jnp.arange(block) < end, carry)


def _masked(x, inside, other=0.0):
    """``other`` in columns that are not inside."""
    return x if inside is None else jnp.where(inside[None, :], x, other)


def _forward_kernel(tile, head, table, q, k, v, out, lse, *, scale):
    start, mine, begin, end = _tile_bounds(table, tile)
    queries = _load_rows(q, start, TILE_ROWS, head, mine)

    def body(row, inside, carry):
        so_far, peak, total = carry
        scores = _matmul(queries, _load_rows(k, row, BLOCK, head, inside).T) * (scale * LOG2_E)
        scores = _masked(scores, inside, -jnp.inf)
        new_peak = jnp.maximum(peak, scores.max(axis=1))
        keep = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores - new_peak[:, None])
        values = _load_rows(v, row, BLOCK, head, inside)
        so_far = so_far * keep[:, None] + _matmul(weights.astype(v.dtype), values)
        return so_far, new_peak, total * keep + weights.sum(axis=1)

    carry = (
        jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32),
        jnp.full((TILE_ROWS,), -jnp.inf, jnp.float32),
        jnp.zeros((TILE_ROWS,), jnp.float32),
    )
    so_far, peak, total = _over_blocks(BLOCK, begin, end, body, carry)
    lse[head, tile, :] = peak + jnp.log2(total)
    _store_rows(out, start, mine, head, so_far / total[:, None])


def _query_kernel(tile, head, table, q, k, v, d_out, lse, delta, d_q, *, scale):
    start, mine, begin, end = _tile_bounds(table, tile)
    queries = _load_rows(q, start, TILE_ROWS, head, mine)
    d_outs = _load_rows(d_out, start, TILE_ROWS, head, mine)
    lse_rows, delta_rows = lse[head, tile, :][:, None], delta[head, tile, :][:, None]

    def body(row, inside, grad):
        keys = _load_rows(k, row, BACKWARD_BLOCK, head, inside)
        values = _load_rows(v, row, BACKWARD_BLOCK, head, inside)
        weights = jnp.exp2(_matmul(queries, keys.T) * (scale * LOG2_E) - lse_rows)
        slopes = weights * (_matmul(d_outs, values.T) - delta_rows)
        return grad + _matmul(_masked(slopes, inside).astype(k.dtype), keys)

    zero = jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32)
    grad = _over_blocks(BACKWARD_BLOCK, begin, end, body, zero)
    _store_rows(d_q, start, mine, head, grad * scale)


def _key_kernel(tile, head, table, q, k, v, d_out, lse, delta, d_k, d_v, *, scale):
    start, mine, begin, end = _tile_bounds(table, tile)
    keys = _load_rows(k, start, TILE_ROWS, head, mine)
    values = _load_rows(v, start, TILE_ROWS, head, mine)
    first = TILE_ROWS * table[tile, SEGMENT_TILE] - table[tile, SEGMENT_START]

    def columns(ref, row):
        """Values of the queries from ``row`` on, in this tile and the next of the segment."""
        return ref[head, pl.ds(first + row, BACKWARD_BLOCK)][None, :]

    def body(row, inside, grads):
        queries = _load_rows(q, row, BACKWARD_BLOCK, head, inside)
        d_outs = _load_rows(d_out, row, BACKWARD_BLOCK, head, inside)
        weights = jnp.exp2(_matmul(keys, queries.T) * (scale * LOG2_E) - columns(lse, row))
        weights = _masked(weights, inside)
        slopes = weights * (_matmul(values, d_outs.T) - columns(delta, row))
        slopes = _masked(slopes, inside).astype(q.dtype)
        grad_v = grads[1] + _matmul(weights.astype(q.dtype), d_outs)
        return grads[0] + _matmul(slopes, queries), grad_v

    zero = jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32)
    grad_k, grad_v = _over_blocks(BACKWARD_BLOCK, begin, end, body, (zero, zero))
    _store_rows(d_k, start, mine, head, grad_k * scale)
    _store_rows(d_v, start, mine, head, grad_v)


def _launch(name, kernel, operands, out_shape, heads, interpret):
    """Runs one program for each head and each tile with work."""

    def where_there_is_work(table, *refs):
        tile, head = pl.program_id(0), pl.program_id(1)
        has_work = table[tile, ROW_END] > table[tile, ROW_BEGIN]
        pl.when(has_work)(lambda: kernel(tile, head, table, *refs))

    return pl.pallas_call(
        where_there_is_work,
        out_shape=out_shape,
        grid=(operands[0].shape[0], heads),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name=name,
    )(*operands)


def _forward(table, q, k, v, *, scale, with_lse, interpret):
    heads = q.shape[1]
    by_tile = jax.ShapeDtypeStruct((heads, table.shape[0], TILE_ROWS), jnp.float32)
    out_shape = [jax.ShapeDtypeStruct(q.shape, q.dtype), by_tile]
    kernel = functools.partial(_forward_kernel, scale=scale)
    name = "varlen_attention_forward"
    out, lse = _launch(name, kernel, (table, q, k, v), out_shape, heads, interpret)
    return out, lse if with_lse else None


def _backward(table, q, k, v, d_out, lse, delta, *, scale, interpret):
    operands = (table, q, k, v, d_out, lse, delta)
    flat = (table, q, k, v, d_out, *(x.reshape(x.shape[0], -1) for x in (lse, delta)))
    grad = jax.ShapeDtypeStruct(q.shape, q.dtype)
    query_kernel = functools.partial(_query_kernel, scale=scale)
    key_kernel = functools.partial(_key_kernel, scale=scale)
    heads = q.shape[1]
    name = "varlen_attention_d_query"
    (d_q,) = _launch(name, query_kernel, operands, [grad], heads, interpret)
    name = "varlen_attention_d_key_value"
    return d_q, *_launch(name, key_kernel, flat, [grad, grad], heads, interpret)


def _kernels(interpret: bool) -> Kernels:
    return Kernels(
        functools.partial(_forward, interpret=interpret),
        functools.partial(_backward, interpret=interpret),
        WIDTHS,
        interpret,
    )


WIDTHS = (16, 32, 64, 128)  # powers of two, as Triton wants
COMPILED, INTERPRETED = _kernels(False), _kernels(True)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; call it only where ``supported`` gives None. scale > 0.

    ``interpret`` runs the kernels without a GPU, for tests.
    """
    kernels = INTERPRETED if interpret else COMPILED
    return tiled_attention(q, k, v, cu_seqlens, kernels, float(scale))
