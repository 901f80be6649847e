"""What an implementation of attention is asked to do."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes of one packed self-attention."""

    packs: int
    rows: int
    heads: int
    head_dim: int
    segments: int
    dtype: np.dtype
