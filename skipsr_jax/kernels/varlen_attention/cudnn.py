"""cuDNN's fused attention in its packed layout: NVIDIA Hopper and newer, bfloat16 or float16.

Segment lengths and offsets are run-time arrays, so one program serves any mask of a given shape.
JAX's own wrapper of the custom call is private; its signature is the same in jax 0.10.2 to 0.12.

Traps that this file stands between, each seen on an H200 with cuDNN 9.19:

* the backward pass forms segment * rows * heads * head_dim in 32 bits and returns zero dq beyond
  2^32: differentiated calls are split over packs, then heads, until the product fits;
* offsets hold segment STARTS only, then -1; empty segments count as absent;
* rows that belong to no segment come back unwritten, and so do their gradients: both are selected
  to zero here;
* one segment alone is not treated as packed and the backward pass wants an even number of rows:
  an empty segment and a row of padding are added.
"""

import functools

import jax
import jax.numpy as jnp

from skipsr_jax.kernels.varlen_attention.problem import Problem, Target
from skipsr_jax.kernels.varlen_attention.segments import row_bounds
from skipsr_jax.types import Array, Float, Int

try:
    from jax._src.cudnn import fused_attention_stablehlo as _fused
except ImportError:  # a private module: another jax may move it
    _fused = None

HEAD_DIM_LIMIT = 128
BACKWARD_ELEMENTS = 2**32  # packs * segments * rows * heads * head_dim of one differentiated call
OFFSET_ELEMENTS = 2**31  # packs * rows * heads * head_dim of any call: int32 offsets in elements


def _even(rows: int) -> int:
    return rows + rows % 2


def _packed_segments(segments: int) -> int:
    return max(segments, 2)


def split_sizes(
    packs: int, rows: int, heads: int, head_dim: int, segments: int, *, backward: bool
) -> tuple[int, int] | None:
    """(packs, heads) of one call so that cuDNN's 32-bit offsets hold; None if nothing fits."""
    rows, segments = _even(rows), _packed_segments(segments)

    def fits(some_packs: int, some_heads: int) -> bool:
        elements = some_packs * rows * some_heads * head_dim
        return elements < OFFSET_ELEMENTS and (
            not backward or elements * segments < BACKWARD_ELEMENTS
        )

    for some_packs in range(packs, 0, -1):
        if fits(some_packs, heads):
            return some_packs, heads
    for some_heads in range(heads - 1, 0, -1):
        if fits(1, some_heads):
            return 1, some_heads
    return None


def supported(problem: Problem, target: Target) -> str | None:
    """None when cuDNN can run this problem forward and backward, else the reason."""
    if _fused is None:
        return "this jax has no jax._src.cudnn.fused_attention_stablehlo"
    if target.compute_capability is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if target.compute_capability < (9, 0):
        found = ".".join(map(str, target.compute_capability))
        return f"the packed layout needs compute capability 9.0 (Hopper), and this GPU has {found}"
    if problem.dtype not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        return f"it takes bfloat16 or float16, not {problem.dtype}"
    if problem.head_dim % 8 or problem.head_dim > HEAD_DIM_LIMIT:
        return (
            f"head_dim must be a multiple of 8 and at most {HEAD_DIM_LIMIT}, not {problem.head_dim}"
        )
    sizes = (problem.packs, problem.rows, problem.heads, problem.head_dim, problem.segments)
    if split_sizes(*sizes, backward=True) is None:
        return (
            f"{problem.rows} rows x {problem.segments} segments x head_dim {problem.head_dim} "
            f"passes its 32-bit offsets ({BACKWARD_ELEMENTS}) even with one head a call"
        )
    return None


def _call(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    scale: float,
) -> Float[Array, "b s a p"]:
    """One cuDNN call on an even number of rows, two segments at least."""
    cu = jnp.clip(cu_seqlens.astype(jnp.int32), 0, q.shape[1])
    lengths = cu[:, 1:] - cu[:, :-1]
    absent = lengths <= 0
    lengths = jnp.where(absent, -1, lengths)
    starts = jnp.where(absent, -1, cu[:, :-1])
    offsets = jnp.pad(starts, ((0, 0), (0, 1)), constant_values=-1)
    return _fused.dot_product_attention(
        q,
        k,
        v,
        None,
        None,
        lengths,
        lengths,
        offsets,
        offsets,
        scale=scale,
        mask_type=_fused.MaskType.PADDING,
    )


def _split_call(q, k, v, cu_seqlens, scale, backward):
    packs, rows, heads, head_dim = q.shape
    segments = cu_seqlens.shape[1] - 1
    sizes = split_sizes(packs, rows, heads, head_dim, segments, backward=backward)
    if sizes is None:
        raise ValueError(
            f"cuDNN attention of {packs} packs x {rows} rows x {heads} heads x {head_dim} with "
            f"{segments} segments passes 32-bit offsets; use implementation='xla' or fewer rows"
        )
    some_packs, some_heads = sizes
    bands = []
    for b in range(0, packs, some_packs):
        pack = slice(b, b + some_packs)
        parts = []
        for a in range(0, heads, some_heads):
            head = slice(a, a + some_heads)
            part = (x[pack, :, head] for x in (q, k, v))
            parts.append(_call(*part, cu_seqlens[pack], scale))
        bands.append(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2))
    return bands[0] if len(bands) == 1 else jnp.concatenate(bands, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q, k, v, cu_seqlens, scale):
    # Not differentiated: no need for the backward pass's smaller calls.
    return _split_call(q, k, v, cu_seqlens, scale, backward=False)


def _attention_forward(q, k, v, cu_seqlens, scale):
    return jax.vjp(lambda *qkv: _split_call(*qkv, cu_seqlens, scale, backward=True), q, k, v)


def _attention_backward(scale, pullback, d_out):
    del scale
    return *pullback(d_out), None


_attention.defvjp(_attention_forward, _attention_backward)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``. Call it only where ``supported`` gives None."""
    rows = q.shape[1]
    more_rows = ((0, 0), (0, _even(rows) - rows), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x, more_rows) for x in (q, k, v))
    segments = cu_seqlens.shape[1] - 1
    cu = jnp.pad(cu_seqlens, ((0, 0), (0, _packed_segments(segments) - segments)), mode="edge")
    inside = row_bounds(cu, q.shape[1])[2][:, :, None, None]
    # Selecting on the way in also selects the gradients on the way out.
    q, k, v = (jnp.where(inside, x, 0) for x in (q, k, v))
    out = _attention(q, k, v, cu, float(scale))
    return jnp.where(inside, out, 0)[:, :rows]
