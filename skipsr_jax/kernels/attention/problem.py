"""The static facts of a call of attention, by which an implementation is chosen.

They have a module of their own because every implementation needs them and ``api`` imports every
implementation.
"""

import dataclasses

import numpy as np
from jax import Array

from skipsr_jax.types import Float, Int


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes and dtype of one packed self-attention."""

    packs: int
    rows: int
    heads: int
    head_dim: int
    segments: int
    dtype: np.dtype

    @classmethod
    def of(cls, q: Float[Array, "b s a p"], cu_seqlens: Int[Array, "b g1"]) -> "Problem":
        """The facts of ``varlen_attention(q, k, v, cu_seqlens)``."""
        return cls(*q.shape, cu_seqlens.shape[1] - 1, q.dtype)
