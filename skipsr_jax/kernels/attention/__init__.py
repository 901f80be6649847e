"""Self-attention over packed segments of any length: one function, several implementations."""

from skipsr_jax.kernels.attention.api import IMPLEMENTATIONS, choose, varlen_attention
from skipsr_jax.kernels.attention.problem import Problem

__all__ = ["IMPLEMENTATIONS", "Problem", "choose", "varlen_attention"]
