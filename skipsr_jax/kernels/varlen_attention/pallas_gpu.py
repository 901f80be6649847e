"""Attention over packed segments for NVIDIA Hopper, in Pallas (Mosaic GPU), forward and backward.

Segments are cut into tiles of their own (``pallas_gpu_tiles``), with bounds that are run-time data;
the work of a tile is its segment's rows and no others. Every row is written by one block of threads
once, in a fixed order of sums, so results repeat bit for bit. Rows of no segment may hold anything:
no sum sees them. They are not written by the kernels, and selected to zero here.

Mosaic kernels are not partitioned by the compiler: on more than one GPU, call it in ``shard_map``.
"""

import functools

import jax
import jax.numpy as jnp

from skipsr_jax.kernels.varlen_attention.pallas_gpu_backward import backward
from skipsr_jax.kernels.varlen_attention.pallas_gpu_forward import forward
from skipsr_jax.kernels.varlen_attention.pallas_gpu_parts import ROW_MULTIPLE
from skipsr_jax.kernels.varlen_attention.pallas_gpu_tiles import (
    TILE_ROWS,
    TILE_START,
    tiles_of,
)
from skipsr_jax.kernels.varlen_attention.problem import Problem, Target
from skipsr_jax.kernels.varlen_attention.segments import row_bounds
from skipsr_jax.types import Array, Float, Int

HEAD_DIM_MULTIPLE, HEAD_DIM_LIMIT = 64, 128
DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def supported(problem: Problem, target: Target) -> str | None:
    """None when the Hopper kernels can run this problem, else the reason."""
    if target.compute_capability is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if target.compute_capability[0] != 9:
        found = ".".join(map(str, target.compute_capability))
        return f"its instructions are those of compute capability 9.x, and this GPU has {found}"
    if problem.dtype not in DTYPES:
        return f"it takes bfloat16 or float16, not {problem.dtype}"
    if problem.head_dim > HEAD_DIM_LIMIT:
        return f"head_dim must be at most {HEAD_DIM_LIMIT}, not {problem.head_dim}"
    return None


def _flat(x: Float[Array, "b s a p"]) -> Float[Array, "t a l"]:
    """The packs end to end, padded to whole tiles of rows and channels."""
    x = x.reshape(-1, *x.shape[2:])
    more_rows, more_channels = -len(x) % ROW_MULTIPLE, -x.shape[2] % HEAD_DIM_MULTIPLE
    return jnp.pad(x, ((0, more_rows), (0, 0), (0, more_channels)))


def _packs(
    x: Float[Array, "t a l"], like: Float[Array, "b s a p"], cu_seqlens: Int[Array, "b g1"]
) -> Float[Array, "b s a p"]:
    """Back from ``_flat``, with zeros in rows of no segment."""
    packs, rows, _, head_dim = like.shape
    x = x[: packs * rows, :, :head_dim].reshape(like.shape)
    return jnp.where(row_bounds(cu_seqlens, rows)[2][:, :, None, None], x, 0)


def _by_tile(x: Float[Array, "b s a"], cu_seqlens: Int[Array, "b g1"]) -> Float[Array, "a t r"]:
    """A value for each row of each tile."""
    rows = x.shape[1]
    start = tiles_of(cu_seqlens, rows)[:, TILE_START]
    row = start[:, None] + jnp.arange(TILE_ROWS, dtype=jnp.int32)
    x = jnp.moveaxis(x.reshape(-1, x.shape[2]), 1, 0)
    return jnp.take(x, row, axis=1, mode="clip")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q, k, v, cu_seqlens, scale):
    return _run_forward(q, k, v, cu_seqlens, scale, with_lse=False)[0]


def _run_forward(q, k, v, cu_seqlens, scale, *, with_lse):
    rows = q.shape[1]
    table = tiles_of(cu_seqlens, rows)
    out, lse = forward(table, _flat(q), _flat(k), _flat(v), scale=scale, with_lse=with_lse)
    return _packs(out, q, cu_seqlens), lse


def _attention_forward(q, k, v, cu_seqlens, scale):
    out, lse = _run_forward(q, k, v, cu_seqlens, scale, with_lse=True)
    return out, (q, k, v, cu_seqlens, out, lse)


def _attention_backward(scale, saved, d_out):
    q, k, v, cu_seqlens, out, lse = saved
    rows = q.shape[1]
    delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
    grads = backward(
        tiles_of(cu_seqlens, rows),
        *(_flat(x) for x in (q, k, v, d_out)),
        lse,
        _by_tile(delta, cu_seqlens),
        scale=scale,
    )
    return *(_packs(grad, q, cu_seqlens) for grad in grads), None


_attention.defvjp(_attention_forward, _attention_backward)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; call it only where ``supported`` gives None. scale > 0."""
    if scale <= 0:
        raise ValueError(f"scale {scale} must be positive; negate the queries instead")
    return _attention(q, k, v, cu_seqlens, float(scale))
