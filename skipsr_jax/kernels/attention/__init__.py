"""Self-attention over packed segments of any length: one function, several implementations.

``varlen_attention`` (``api``) chooses the first implementation that supports the problem:

- ``cudnn``: cuDNN's fused kernel, on Hopper and newer.
- ``hopper``: Pallas (Mosaic GPU), on Hopper.
- ``triton``: Pallas (Triton), on GPUs from Ampere on.
- ``tpu``: Pallas (Mosaic), on TPUs.
- ``xla``: plain XLA, on any device; the reference for the others.

``hopper`` and ``triton`` share ``gpu_tile_table`` (segments cut into tiles) and
``gpu_tiled_attention`` (packing, the derivative), and with ``cudnn`` ``gpu_zero_rows`` (rows of no
segment).
"""

from skipsr_jax.kernels.attention.api import (
    IMPLEMENTATIONS,
    choose,
    merged_attention,
    merged_heads_run,
    varlen_attention,
)
from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.attention.residuals import RESIDUALS
from skipsr_jax.kernels.attention.tpu.op import block_rows

__all__ = [
    "IMPLEMENTATIONS",
    "RESIDUALS",
    "Problem",
    "block_rows",
    "choose",
    "merged_attention",
    "merged_heads_run",
    "varlen_attention",
]
