"""Self-attention over packed segments of any length: one function, several implementations."""

from skipsr_jax.kernels.attention.api import IMPLEMENTATIONS, choose, varlen_attention

__all__ = ["IMPLEMENTATIONS", "choose", "varlen_attention"]
