"""Blocks of a picture joined with their borders and their past, ready for a convolution."""

from skipsr_jax.kernels.norm_silu_concat.blocks.api import IMPLEMENTATIONS, join_blocks

__all__ = ["IMPLEMENTATIONS", "join_blocks"]
