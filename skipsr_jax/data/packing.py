"""How kept tokens become sequences of one size: what each sample may keep, and the bucket.

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
      kept_share: room in a sequence, as a share of its samples' tokens; a sample that wants more
        loses some at random.
      dense_share: share of samples that keep every token, whatever the mask says.
      random_drop: up to this share of the kept tokens is dropped at random.
      negative_share: share of samples with the negative text.
      text_lengths: tokens of the positive and the negative text.
      shards: devices that share a sequence; its bucket is a multiple of it.
      guided: make plans with the negative text too.
    """

    samples: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1
    negative_share: float = 0.1
    text_lengths: tuple[int, int] = (1, 1)
    shards: int = 1
    guided: bool = False


def thin(
    keep: Bool[HostArray, "t r c"], packing: Packing, rng: np.random.Generator
) -> Bool[HostArray, "t r c"]:
    """The mask as its sequence takes it: some dropped, cut to the room there is, one left."""
    if rng.random() < packing.dense_share:
        keep = np.ones_like(keep)
    kept = rng.permutation(np.flatnonzero(keep))
    drop = rng.random() * packing.random_drop
    count = min(int(np.ceil(len(kept) * (1 - drop))), _room(keep.size, packing))
    chosen = kept[:count] if len(kept) else rng.integers(keep.size, size=1)
    thinned = np.zeros(keep.size, bool)
    thinned[chosen] = True
    return thinned.reshape(keep.shape)


def _room(tokens: int, packing: Packing) -> int:
    """How many tokens one sample may keep."""
    return max(1, int(tokens * packing.kept_share))


def bucket_of(shapes: Sequence[ClipShape], packing: Packing) -> Bucket:
    """The one bucket of a kind of batch: room for the tokens and for every window of its grids."""
    sequences = sum(shape.batch for shape in shapes) // packing.samples
    grids = [shape.grid for shape in shapes for _ in range(shape.batch // sequences)]
    tokens = sum(_room(int(np.prod(grid)), packing) for grid in grids)
    windows = bucket_with_window_capacity([np.ones(grid, bool) for grid in grids]).windows
    return bucket_for(tokens, windows, packing.shards, slack=False)  # no windows are assigned
