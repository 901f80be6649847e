"""Attention over packed segments for NVIDIA Hopper, in Pallas (Mosaic GPU), forward and backward.

Segments are cut into tiles of their own (``gpu_tile_table``), with bounds that are run-time data;
the work of a tile is its segment's rows and no others. Every row is written by one block of threads
once, in a fixed order of sums, so results repeat bit for bit.

Mosaic kernels are not partitioned by the compiler: on more than one GPU, call it in ``shard_map``.
"""

from jax import Array

from skipsr_jax.kernels.attention.gpu_tiled_attention import Kernels, tiled_attention
from skipsr_jax.kernels.attention.hopper.backward import backward
from skipsr_jax.kernels.attention.hopper.forward import forward
from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

KERNELS = Kernels(forward, backward, widths=(64, 128))


def supported(problem: Problem, target: Target) -> str | None:
    """None when the Hopper kernels can run this problem, else the reason."""
    needs = "its instructions are those of compute capability 9.x"
    refused = gpu_refusal(problem.dtype, target, needs, (9, 0), (10, 0))
    if refused is None and problem.head_dim > KERNELS.widths[-1]:
        return f"head_dim must be at most {KERNELS.widths[-1]}, not {problem.head_dim}"
    return refused


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
