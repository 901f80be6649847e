"""The static facts of a projection that is brought into windows."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class QKVWindowsProblem:
    """Heads of queries, keys and values each, their width, and how many numbers there are.

    Attributes:
      heads: of queries.
      head_dim: channels of a head.
      eps: added to the mean square of a head's channels.
      dtype: of the projection and of the result.
      numbers: of the projection or of all attention rows, whichever are more.
    """

    heads: int
    head_dim: int
    eps: float
    dtype: np.dtype
    numbers: int
