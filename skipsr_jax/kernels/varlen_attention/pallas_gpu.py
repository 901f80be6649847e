"""Attention over packed segments for NVIDIA Hopper, in Pallas (Mosaic GPU), forward and backward.

Segments are cut into tiles of their own (``tiles``), with bounds that are run-time data; the work
of a tile is its segment's rows and no others. Every row is written by one block of threads once, in
a fixed order of sums, so results repeat bit for bit.

Mosaic kernels are not partitioned by the compiler: on more than one GPU, call it in ``shard_map``.
"""

import jax.numpy as jnp

from skipsr_jax.kernels.varlen_attention.pallas_gpu_backward import backward
from skipsr_jax.kernels.varlen_attention.pallas_gpu_forward import forward
from skipsr_jax.kernels.varlen_attention.problem import Problem, Target
from skipsr_jax.kernels.varlen_attention.tiled import Kernels, tiled_attention
from skipsr_jax.types import Array, Float, Int

KERNELS = Kernels(forward, backward, widths=(64, 128))
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
    if problem.head_dim > KERNELS.widths[-1]:
        return f"head_dim must be at most {KERNELS.widths[-1]}, not {problem.head_dim}"
    return None


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; call it only where ``supported`` gives None. scale > 0."""
    return tiled_attention(q, k, v, cu_seqlens, KERNELS, float(scale))
