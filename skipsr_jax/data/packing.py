"""How kept tokens become sequences of one size: what each sample may keep, and the bucket.

Packing the tokens of several samples into one sequence is that of NaViT (Dehghani et al. 2023).
Invariant: whatever the masks, the tokens of a sequence fit the bucket of its kind of batch.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.plan import bucket_with_window_capacity
from skipsr_jax.types import Bool, HostArray


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the kept tokens of samples become token plans.

    Attributes:
      samples: samples in one sequence, those of all shapes together.
      kept_share: fraction of a sample's tokens that a sequence has capacity for; of a sample that
        keeps more, some are dropped at random.
      dense_share: probability that a sample keeps every token, whatever its mask.
      random_drop: largest fraction of the kept tokens that is dropped at random.
      negative_share: probability that a sample takes the negative text.
      text_lengths: tokens of the positive and the negative text.
      shards: devices that share a sequence; its bucket is a multiple of it.
      guided: make plans with the negative text too, for classifier-free guidance.
    """

    samples: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1
    negative_share: float = 0.1
    text_lengths: tuple[int, int] = (1, 1)
    shards: int = 1
    guided: bool = False


def drop_tokens(
    keep: Bool[HostArray, "t r q"], packing: Packing, rng: np.random.Generator
) -> Bool[HostArray, "t r q"]:
    """The keep mask of a sample after random dropping, within its capacity; it keeps one token."""
    if rng.random() < packing.dense_share:
        keep = np.ones_like(keep)
    kept = rng.permutation(np.flatnonzero(keep))
    drop = rng.random() * packing.random_drop
    count = min(int(np.ceil(len(kept) * (1 - drop))), _capacity(keep.size, packing))
    chosen = kept[:count] if len(kept) else rng.integers(keep.size, size=1)
    left = np.zeros(keep.size, bool)
    left[chosen] = True
    return left.reshape(keep.shape)


def _capacity(tokens: int, packing: Packing) -> int:
    """How many tokens a sample of so many may keep."""
    return max(1, int(tokens * packing.kept_share))


def bucket_of(shapes: Sequence[ClipShape], packing: Packing) -> Bucket:
    """The one bucket of a kind of batch: it holds the tokens, and every window of their grids."""
    sequences = sum(shape.batch for shape in shapes) // packing.samples
    grids = [shape.grid for shape in shapes for _ in range(shape.batch // sequences)]
    tokens = sum(_capacity(int(np.prod(grid)), packing) for grid in grids)
    windows = bucket_with_window_capacity([np.ones(grid, bool) for grid in grids]).windows
    return bucket_for(tokens, windows, packing.shards, slack=False)  # no windows are assigned
