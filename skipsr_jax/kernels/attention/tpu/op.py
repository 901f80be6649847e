"""Attention over packed segments for TPU, in Pallas (Mosaic): flash style, forward and backward.

Only blocks of a row's own segment are copied and multiplied (``tpu.stream``), with bounds that are
run-time data. The kernels take arrays as (b, a, s, p), which is how XLA lays (b, s, a, p) out on a
TPU, so nothing is transposed; narrower heads are padded to the chip's 128 lanes. Rows of no segment
are set to zero in the inputs, by selection, and the kernels write zeros for them. The backward pass
needs two float32 per row and head from the forward pass.

Mosaic kernels are not partitioned by the compiler: on more than one chip, call it in ``shard_map``.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.attention.residuals import named_residuals
from skipsr_jax.kernels.attention.segments import row_bounds
from skipsr_jax.kernels.attention.tpu.backward import backward
from skipsr_jax.kernels.attention.tpu.forward import forward, forward_merged
from skipsr_jax.kernels.attention.tpu.stream import (
    LANES,
    BlockRanges,
    Blocks,
    block_ranges,
    blocks_for,
)
from skipsr_jax.kernels.target import Target
from skipsr_jax.types import Bool, Float, Int

DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32))


def supported(problem: Problem, target: Target) -> str | None:
    """None when the TPU kernels can run this problem, else the reason."""
    if target.platform != "tpu":
        return f"it needs a TPU, and this is {target.platform}"
    if problem.dtype not in DTYPES:
        return f"it takes bfloat16 or float32, not {problem.dtype}"
    if problem.head_dim > LANES:
        return f"head_dim must be at most {LANES}, not {problem.head_dim}"
    return None


def _prepare(
    cu_seqlens: Int[Array, "b g1"], rows: int, blocks: Blocks
) -> tuple[BlockRanges, Int[Array, "b 2 padded"], Bool[Array, "b s"]]:
    """Ranges of blocks, start and end of each of the padded rows, and which rows have a segment."""
    start, end, inside = row_bounds(cu_seqlens, rows)
    more = ((0, 0), (0, -rows % blocks.stationary))
    start, end = jnp.pad(start, more), jnp.pad(end, more)
    return block_ranges(start, end, blocks), jnp.stack([start, end], axis=1), inside


def _heads_first(
    x: Float[Array, "b s a p"], inside: Bool[Array, "b s"], blocks: Blocks
) -> Float[Array, "b a padded lanes"]:
    """Rows in whole blocks and heads in whole lanes; zero, never multiply, rows of no segment."""
    rows, head_dim = x.shape[1], x.shape[3]
    x = jnp.where(inside[:, :, None, None], x, 0)
    x = jnp.pad(x, ((0, 0), (0, -rows % blocks.stationary), (0, 0), (0, LANES - head_dim)))
    return x.swapaxes(1, 2)


def _rows_first(
    x: Float[Array, "b a padded lanes"], rows: int, head_dim: int
) -> Float[Array, "b s a p"]:
    return x.swapaxes(1, 2)[:, :rows, :, :head_dim]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attention(q, k, v, cu_seqlens, scale, blocks, interpret):
    return _attention_forward(q, k, v, cu_seqlens, scale, blocks, interpret)[0]


def _attention_forward(q, k, v, cu_seqlens, scale, blocks, interpret):
    ranges, bounds, inside = _prepare(cu_seqlens, q.shape[1], blocks)
    heads = (_heads_first(x, inside, blocks) for x in (q, k, v))
    out, lse = forward(ranges, bounds, *heads, blocks=blocks, scale=scale, interpret=interpret)
    out, lse = named_residuals(_rows_first(out, q.shape[1], q.shape[3]), lse)
    return out, (q, k, v, cu_seqlens, out, lse)


def _attention_backward(scale, blocks, interpret, residuals, d_out):
    q, k, v, cu_seqlens, out, lse = residuals
    ranges, bounds, inside = _prepare(cu_seqlens, q.shape[1], blocks)
    d_out = jnp.where(inside[:, :, None, None], d_out, 0)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    delta = jnp.pad(delta.swapaxes(1, 2), ((0, 0), (0, 0), (0, lse.shape[3] - delta.shape[1])))
    saved = jnp.concatenate([lse, delta[:, :, None]], axis=2)
    heads = (_heads_first(x, inside, blocks) for x in (q, k, v, d_out))
    grads = backward(ranges, bounds, saved, *heads, blocks=blocks, scale=scale, interpret=interpret)
    return *(_rows_first(grad, q.shape[1], q.shape[3]) for grad in grads), None


_attention.defvjp(_attention_forward, _attention_backward)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
    blocks: Blocks | None = None,
    interpret: object = False,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; call it only where ``supported`` gives None.

    ``blocks`` sets the work per step, not the result. ``interpret`` runs the kernels without a TPU,
    for tests: True, or ``pltpu.InterpretParams`` to simulate copies and semaphores.
    """
    blocks = blocks or blocks_for(q.shape[1])
    return _attention(q, k, v, cu_seqlens, float(scale), blocks, interpret)


def merged_supported(problem: Problem, target: Target) -> str | None:
    """As ``supported``, for ``merged_attention``."""
    if problem.head_dim != LANES:
        return f"merged heads must be {LANES} wide, not {problem.head_dim}"
    return supported(problem, target)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _merged(qkv, cu_seqlens, heads, scale, blocks, interpret):
    return _merged_forward(qkv, cu_seqlens, heads, scale, blocks, interpret)[0]


def _merged_forward(qkv, cu_seqlens, heads, scale, blocks, interpret):
    rows = qkv.shape[1]
    ranges, bounds, _ = _prepare(cu_seqlens, rows, blocks)
    padded = jnp.pad(qkv, ((0, 0), (0, -rows % blocks.stationary), (0, 0)))
    settings = {"heads": heads, "blocks": blocks, "scale": scale, "interpret": interpret}
    out, lse = forward_merged(ranges, bounds, padded, **settings)
    out, lse = named_residuals(out[:, :rows], lse)
    return out, (qkv, cu_seqlens, out, lse)


def _merged_backward(heads, scale, blocks, interpret, residuals, d_out):
    qkv, cu_seqlens, out, lse = residuals
    q, k, v = rearrange(qkv, "b s (three a p) -> three b s a p", three=3, a=heads)
    out, d_out = (rearrange(x, "b s (a p) -> b s a p", a=heads) for x in (out, d_out))
    saved = q, k, v, cu_seqlens, out, lse
    grads = _attention_backward(scale, blocks, interpret, saved, d_out)[:3]
    return rearrange(jnp.stack(grads), "three b s a p -> b s (three a p)"), None


_merged.defvjp(_merged_forward, _merged_backward)


def merged_attention(
    qkv: Float[Array, "b s i"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    heads: int,
    scale: float,
    blocks: Blocks | None = None,
    interpret: object = False,
) -> Float[Array, "b s d"]:
    """See ``api.merged_attention``; call it only where ``merged_supported`` gives None.

    Nothing is copied before or after the kernel where the rows fill whole blocks
    (``block_rows``). Other args as ``varlen_attention``.
    """
    blocks = blocks or blocks_for(qkv.shape[1])
    return _merged(qkv, cu_seqlens, heads, float(scale), blocks, interpret)


def block_rows(rows: int) -> int:
    """``rows``, rounded up to whole blocks of the kernels."""
    return rows + -rows % blocks_for(rows).stationary
