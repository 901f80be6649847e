"""Attention over packed segments for NVIDIA GPUs from Ampere on, in Pallas (Triton).

Segments are cut into tiles of their own (``tiles``): a program for each head and tile goes over the
rows of the tile's segment. Loads and stores are masked at the segment's end, so nothing else is
read or written. Backward, one kernel forms dq and one dk and dv, with nothing added twice: results
repeat bit for bit. ``interpret`` runs the kernels without a GPU.

Pallas on Triton is deprecated since jax 0.11. It serves GPUs that cuDNN's packed layout leaves out.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.kernels.varlen_attention.problem import Problem, Target
from skipsr_jax.kernels.varlen_attention.tiled import Kernels, tiled_attention
from skipsr_jax.kernels.varlen_attention.tiles import (
    SEGMENT_LENGTH,
    SEGMENT_START,
    SEGMENT_TILE,
    TILE_COUNT,
    TILE_ROWS,
    TILE_START,
)
from skipsr_jax.types import Array, Float, Int

BLOCK = 64  # rows that go by at a time, forward
BACKWARD_BLOCK = 32
WARPS, STAGES = 8, 2
LOG2_E = math.log2(math.e)
DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def supported(problem: Problem, target: Target) -> str | None:
    """None when the Triton kernels can run this problem, else the reason."""
    if target.compute_capability is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if target.compute_capability < (8, 0):
        found = ".".join(map(str, target.compute_capability))
        return f"it needs compute capability 8.0 (Ampere), and this GPU has {found}"
    if problem.dtype not in DTYPES:
        return f"it takes bfloat16 or float16, not {problem.dtype}"
    if problem.head_dim > WIDTHS[-1]:
        return f"head_dim must be at most {WIDTHS[-1]}, not {problem.head_dim}"
    return None


def _rows(ref, start, rows, head, end):
    """``rows`` rows of a head from ``start`` on, zeros from ``end`` on (None: all are before)."""
    part = ref.at[pl.ds(start, rows), head, :]
    if end is None:
        return plgpu.load(part)
    inside = start + jnp.arange(rows) < end
    mask = jnp.broadcast_to(inside[:, None], (rows, ref.shape[-1]))
    return plgpu.load(part, mask=mask, other=0.0)


def _write(ref, start, end, head, value):
    inside = start + jnp.arange(TILE_ROWS) < end
    mask = jnp.broadcast_to(inside[:, None], value.shape)
    plgpu.store(ref.at[pl.ds(start, TILE_ROWS), head, :], value.astype(ref.dtype), mask=mask)


def _matmul(a, b):
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _place(table, tile):
    """First row and end of the tile's rows, and of its segment's."""
    start, segment = table[tile, TILE_START], table[tile, SEGMENT_START]
    end = start + table[tile, TILE_COUNT]
    return start, end, segment, segment + table[tile, SEGMENT_LENGTH]


def _over_blocks(block, segment, end, body, carry):
    """Folds ``body(row, end, carry)`` over blocks; ``end`` is None but in the last of them."""
    whole = lax.div(end - segment - 1, block)

    def step(i, carry):
        return body(segment + i * block, None, carry)

    carry = lax.fori_loop(0, whole, step, carry)
    return body(segment + whole * block, end, carry)


def _masked(x, row, end):
    """Zero in columns of rows from ``end`` on."""
    if end is None:
        return x
    return jnp.where((row + jnp.arange(x.shape[1]) < end)[None, :], x, 0.0)


def _forward_kernel(tile, head, table, q, k, v, out, lse, *, scale):
    start, tile_end, segment, end = _place(table, tile)
    queries = _rows(q, start, TILE_ROWS, head, tile_end)

    def body(row, end, carry):
        so_far, peak, total = carry
        scores = _matmul(queries, _rows(k, row, BLOCK, head, end).T) * (scale * LOG2_E)
        if end is not None:
            scores = jnp.where((row + jnp.arange(BLOCK) < end)[None, :], scores, -jnp.inf)
        new_peak = jnp.maximum(peak, scores.max(axis=1))
        keep = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores - new_peak[:, None])
        values = _rows(v, row, BLOCK, head, end)
        so_far = so_far * keep[:, None] + _matmul(weights.astype(v.dtype), values)
        return so_far, new_peak, total * keep + weights.sum(axis=1)

    carry = (
        jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32),
        jnp.full((TILE_ROWS,), -jnp.inf, jnp.float32),
        jnp.zeros((TILE_ROWS,), jnp.float32),
    )
    so_far, peak, total = _over_blocks(BLOCK, segment, end, body, carry)
    lse[head, tile, :] = peak + jnp.log2(total)
    _write(out, start, tile_end, head, so_far / total[:, None])


def _query_kernel(tile, head, table, q, k, v, d_out, lse, delta, d_q, *, scale):
    start, tile_end, segment, end = _place(table, tile)
    queries = _rows(q, start, TILE_ROWS, head, tile_end)
    d_outs = _rows(d_out, start, TILE_ROWS, head, tile_end)
    lse_rows, delta_rows = lse[head, tile, :][:, None], delta[head, tile, :][:, None]

    def body(row, end, grad):
        keys = _rows(k, row, BACKWARD_BLOCK, head, end)
        values = _rows(v, row, BACKWARD_BLOCK, head, end)
        weights = jnp.exp2(_matmul(queries, keys.T) * (scale * LOG2_E) - lse_rows)
        slopes = weights * (_matmul(d_outs, values.T) - delta_rows)
        return grad + _matmul(_masked(slopes, row, end).astype(k.dtype), keys)

    zero = jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32)
    grad = _over_blocks(BACKWARD_BLOCK, segment, end, body, zero)
    _write(d_q, start, tile_end, head, grad * scale)


def _key_kernel(tile, head, table, q, k, v, d_out, lse, delta, d_k, d_v, *, scale):
    start, tile_end, segment, end = _place(table, tile)
    keys = _rows(k, start, TILE_ROWS, head, tile_end)
    values = _rows(v, start, TILE_ROWS, head, tile_end)
    first = table[tile, SEGMENT_TILE]

    def columns(ref, row):
        """Of the queries from ``row`` on, which lie in one tile."""
        place = row - segment
        within = pl.ds(lax.rem(place, TILE_ROWS), BACKWARD_BLOCK)
        return ref[head, first + lax.div(place, TILE_ROWS), within][None, :]

    def body(row, end, grads):
        queries = _rows(q, row, BACKWARD_BLOCK, head, end)
        d_outs = _rows(d_out, row, BACKWARD_BLOCK, head, end)
        weights = jnp.exp2(_matmul(keys, queries.T) * (scale * LOG2_E) - columns(lse, row))
        weights = _masked(weights, row, end)
        slopes = weights * (_matmul(values, d_outs.T) - columns(delta, row))
        slopes = _masked(slopes, row, end).astype(q.dtype)
        grad_v = grads[1] + _matmul(weights.astype(q.dtype), d_outs)
        return grads[0] + _matmul(slopes, queries), grad_v

    zero = jnp.zeros((TILE_ROWS, q.shape[-1]), jnp.float32)
    grad_k, grad_v = _over_blocks(BACKWARD_BLOCK, segment, end, body, (zero, zero))
    _write(d_k, start, tile_end, head, grad_k * scale)
    _write(d_v, start, tile_end, head, grad_v)


def _launch(kernel, operands, out_shape, heads, interpret):
    """One program for each tile with work, and head."""

    def where_there_is_work(table, *refs):
        tile, head = pl.program_id(0), pl.program_id(1)
        pl.when(table[tile, TILE_COUNT] > 0)(lambda: kernel(tile, head, table, *refs))

    return pl.pallas_call(
        where_there_is_work,
        out_shape=out_shape,
        grid=(operands[0].shape[0], heads),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
    )(*operands)


def _forward(table, q, k, v, *, scale, with_lse, interpret):
    heads = q.shape[1]
    by_tile = jax.ShapeDtypeStruct((heads, table.shape[0], TILE_ROWS), jnp.float32)
    out_shape = [jax.ShapeDtypeStruct(q.shape, q.dtype), by_tile]
    kernel = functools.partial(_forward_kernel, scale=scale)
    out, lse = _launch(kernel, (table, q, k, v), out_shape, heads, interpret)
    return out, lse if with_lse else None


def _backward(table, q, k, v, d_out, lse, delta, *, scale, interpret):
    operands = (table, q, k, v, d_out, lse, delta)
    grad = jax.ShapeDtypeStruct(q.shape, q.dtype)
    query_kernel = functools.partial(_query_kernel, scale=scale)
    key_kernel = functools.partial(_key_kernel, scale=scale)
    (d_q,) = _launch(query_kernel, operands, [grad], q.shape[1], interpret)
    return d_q, *_launch(key_kernel, operands, [grad, grad], q.shape[1], interpret)


def _kernels(interpret: bool) -> Kernels:
    return Kernels(
        functools.partial(_forward, interpret=interpret),
        functools.partial(_backward, interpret=interpret),
        WIDTHS,
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
