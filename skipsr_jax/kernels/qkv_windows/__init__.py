"""Queries, keys and values from their projection to windows in one pass, and back in one.

Queries and keys are normalised and rotated, and all three gathered into attention rows, so that
nothing between the projection and attention is written to memory.

- ``triton``: Pallas (Triton), on NVIDIA GPUs in half precision. Elsewhere the steps run one by one
  (``models.dit.attention``), and on TPUs ``kernels.qk_norm_rope`` does the first two of them.
"""

from skipsr_jax.kernels.qkv_windows.problem import QKVWindowsProblem
from skipsr_jax.kernels.qkv_windows.triton import from_windows, supported, to_windows

__all__ = ["QKVWindowsProblem", "from_windows", "supported", "to_windows"]
