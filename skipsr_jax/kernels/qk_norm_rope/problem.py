"""The static facts of a norm and rotation of queries and keys."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class QKNormRopeProblem:
    """Heads of queries, keys and values each, their width, and how the result is laid out.

    Attributes:
      heads: of queries.
      head_dim: channels of a head.
      shards: into how many parts the heads are cut.
      eps: added to the mean square.
      dtype: of the result.
    """

    heads: int
    head_dim: int
    shards: int
    eps: float
    dtype: np.dtype
