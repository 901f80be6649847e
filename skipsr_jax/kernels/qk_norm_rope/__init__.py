"""Queries and keys normalised and rotated in one pass, laid out for attention or an exchange.

- ``tpu``: Pallas (Mosaic), on TPUs.
- ``xla``: plain XLA, on any device; the reference. ``rotate`` is its rotation alone.
"""

from skipsr_jax.kernels.qk_norm_rope.api import IMPLEMENTATIONS, qk_norm_rope
from skipsr_jax.kernels.qk_norm_rope.xla import rotate

__all__ = ["IMPLEMENTATIONS", "qk_norm_rope", "rotate"]
