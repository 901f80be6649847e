"""The public function, and the contract by which an implementation is chosen.

``implementation=None`` takes the first of IMPLEMENTATIONS that supports the problem on the target
(``target.current_target``: the mesh in scope, else this machine), and logs once which one ran and
why each faster one did not. A name means that implementation or an error: nothing falls back in
silence.
"""

import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.kernels.attention import cudnn, xla
from skipsr_jax.kernels.attention import triton as pallas_triton
from skipsr_jax.kernels.attention.hopper import op as pallas_gpu
from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.attention.tpu import op as pallas_tpu
from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.target import Target, current_target
from skipsr_jax.types import DType, Float, Int

# Fastest first; the last one runs everywhere. pallas_gpu is the folder hopper/.
IMPLEMENTATIONS = {
    "cudnn": Implementation(cudnn.supported, cudnn.varlen_attention),
    "pallas_gpu": Implementation(pallas_gpu.supported, pallas_gpu.varlen_attention),
    "pallas_triton": Implementation(pallas_triton.supported, pallas_triton.varlen_attention),
    "pallas_tpu": Implementation(pallas_tpu.supported, pallas_tpu.varlen_attention),
    "xla": Implementation(everywhere, xla.varlen_attention),
}


def choose(
    problem: Problem, target: Target | None = None, implementation: str | None = None
) -> tuple[str, dict[str, str]]:
    """Name of the implementation to run, and why each one before it in the order cannot.

    Raises ValueError for an unknown name, and for a named one that cannot run, with its reason.
    """
    target = target or current_target()
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown attention implementation {implementation!r}; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}, or None for the fastest that runs"
        )
    names = IMPLEMENTATIONS if implementation is None else (implementation,)
    name, refused = first_supported(
        {name: IMPLEMENTATIONS[name] for name in names}, problem, target
    )
    if name is not None:
        return name, refused
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise ValueError(
        f"attention implementation {implementation!r} cannot run here ({reasons}); "
        "use None for the fastest that runs"
    )


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
    implementation: str | None = None,
) -> Float[Array, "b s a p"]:
    """Bidirectional self-attention inside each segment of packed sequences.

    Args:
      q, k, v: queries, keys, values of one float dtype.
      cu_seqlens: non-decreasing bounds, 0 to s. Segment i of pack b is rows
        [cu_seqlens[b, i], cu_seqlens[b, i + 1]). Pad it by repeating its last value; segments
        may be empty anywhere. It is run-time data: other bounds need no other program.
      scale: factor on the scores, usually p ** -0.5.
      implementation: a key of IMPLEMENTATIONS, or None for the fastest that runs here. The
        gradients of "cudnn" do not repeat bit for bit, those of the Pallas kernels do.

    Returns:
      Attention output in q's dtype, softmax in float32. Rows that belong to no segment are exactly
      zero and get zero gradients, whatever they hold (NaN included).

    Raises:
      ValueError: shapes or dtypes that do not match, an unknown implementation, or a named one that
        cannot run here.
    """
    if not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q {q.dtype}{q.shape}, k {k.dtype}{k.shape} and v {v.dtype}{v.shape} must have one "
            "shape (packs, rows, heads, head_dim) and one dtype; cast or reshape them"
        )
    if cu_seqlens.ndim != 2 or cu_seqlens.shape[0] != q.shape[0] or cu_seqlens.shape[1] < 2:
        raise ValueError(
            f"cu_seqlens {cu_seqlens.shape} must be (packs, segments + 1) with {q.shape[0]} packs "
            "and at least one segment"
        )
    name, refused = choose(Problem.of(q, cu_seqlens), implementation=implementation)
    log_choice("attention runs on", name, refused)
    return IMPLEMENTATIONS[name].run(q, k, v, cu_seqlens, scale=scale)


def merged_attention(
    qkv: Float[Array, "b s i"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    heads: int,
    scale: float,
    implementation: str | None = None,
) -> Float[Array, "b s d"]:
    """``varlen_attention`` of rows in which the channels of all heads follow one another.

    On TPUs no axis of heads is ever made, for which the chip would lay the rows out anew.

    Args:
      qkv: queries, keys and values of ``heads`` heads, i = 3 a p. Rows of no segment hold finite
        numbers.
      Others as ``varlen_attention``.

    Returns:
      The heads' results, d = a p.
    """
    width = qkv.shape[2] // (3 * heads)
    problem = Problem(*qkv.shape[:2], heads, width, cu_seqlens.shape[1] - 1, qkv.dtype)
    name, refused = choose(problem, implementation=implementation)
    if name == "pallas_tpu" and pallas_tpu.merged_supported(problem, current_target()) is None:
        log_choice("attention runs on", name, refused)
        return pallas_tpu.merged_attention(qkv, cu_seqlens, heads=heads, scale=scale)
    q, k, v = rearrange(qkv, "b s (three a p) -> three b s a p", three=3, a=heads)
    out = varlen_attention(q, k, v, cu_seqlens, scale=scale, implementation=implementation)
    return rearrange(out, "b s a p -> b s (a p)")


def merged_heads_run(head_dim: int, dtype: DType, implementation: str | None) -> bool:
    """Whether ``merged_attention`` of heads of this width runs without an axis of heads here."""
    if implementation not in (None, "pallas_tpu"):
        return False
    problem = Problem(1, 1, 1, head_dim, 1, jnp.dtype(dtype))
    return pallas_tpu.merged_supported(problem, current_target()) is None
