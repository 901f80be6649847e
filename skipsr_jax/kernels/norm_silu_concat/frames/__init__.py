"""Frames joined with those before them in one pass, ready for a causal convolution."""

from skipsr_jax.kernels.norm_silu_concat.frames.api import IMPLEMENTATIONS, join_frames
from skipsr_jax.kernels.norm_silu_concat.frames.problem import SpacePadding
from skipsr_jax.kernels.norm_silu_concat.frames.xla import last_frames

__all__ = ["IMPLEMENTATIONS", "SpacePadding", "join_frames", "last_frames"]
