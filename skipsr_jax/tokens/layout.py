"""Layout: who attends to whom in a window partition, as index arrays, and how one is written.

In attention order a window is its kept tokens followed by the text of its sample; a window without
kept tokens has no rows. Windows follow one another, sample after sample, and padding is at the end.
Padding points past the end of what it indexes, where gathers fill with zeros.
"""

from typing import Any, NamedTuple

import numpy as np

from skipsr_jax.tokens.buckets import Bucket

Leaf = Any
"""An array on host or device, or whatever stands for it in a pytree (a shape, a sharding)."""


class Layout(NamedTuple):
    """Who attends to whom in each of several layouts.

    Axes: ``b`` packs, ``y`` window partitions (in ``TokenPlan.shard_layouts`` the token shards of
    one partition), ``n`` stored tokens, ``s`` attention rows (n + g * l), ``g`` windows, ``k``
    samples in a pack, ``l`` text slots of a sample, ``m = k * l`` text rows.

    Attributes:
      gather (b, y, s): attention row -> row of (video ++ text), n + m where the row is padding.
      video_rows (b, y, n): stored token -> attention row, s where the token is padding.
      text_rows (b, y, g, l): window and text slot -> attention row, s where there is none.
      text_weight (b, y, k, g): weight of each window in the text mean of each sample.
      cu_seqlens (b, y, g + 1): attention row at which each window begins, then the total, repeated.
    """

    gather: Leaf
    video_rows: Leaf
    text_rows: Leaf
    text_weight: Leaf
    cu_seqlens: Leaf


def empty_layouts(count: int, bucket: Bucket, samples: int, text_slots: int) -> Layout:
    """``count`` layouts of one pack (b = 1) that hold nothing but padding, to be written to."""
    n, windows = bucket.tokens, bucket.windows
    rows = n + windows * text_slots
    return Layout(
        gather=np.full((1, count, rows), n + samples * text_slots, np.int32),
        video_rows=np.full((1, count, n), rows, np.int32),
        text_rows=np.full((1, count, windows, text_slots), rows, np.int32),
        text_weight=np.zeros((1, count, samples, windows), np.float32),
        cu_seqlens=np.zeros((1, count, windows + 1), np.int32),
    )


class LayoutWriter:
    """Writes the samples of a pack, one after the other, into one of its layouts."""

    def __init__(self, layouts: Layout, y: int, bucket: Bucket):
        """Args: ``layouts``: from ``empty_layouts``; ``y``: which of them is written."""
        self._layout = Layout(*(array[0, y] for array in layouts))  # views
        self._bucket = bucket
        self._windows = self._rows = 0  # written so far

    def append(
        self, sample: int, tokens: np.ndarray, counts: np.ndarray, text: int, windows: int
    ) -> None:
        """Writes the windows of ``sample`` behind those of the samples before it.

        Args:
          tokens: indices of its stored tokens, window after window.
          counts: how many tokens each window has, none of them 0.
          text: text tokens of the sample.
          windows: over how many windows its text is averaged: all that it has in the partition.

        Raises ValueError when the bucket has too few windows.
        """
        layout, bucket = self._layout, self._bucket
        here = slice(self._windows, self._windows + len(counts))
        if here.stop > bucket.windows:
            raise ValueError(f"{here.stop} windows or more do not fit the bucket of {bucket}")
        lengths = counts + text
        ends = self._rows + np.cumsum(lengths)
        starts = ends - lengths
        total = self._rows + int(lengths.sum())
        layout.cu_seqlens[1 + here.start : 1 + here.stop] = ends
        layout.cu_seqlens[1 + here.stop :] = total

        video_rows = ranges(starts, counts)
        layout.video_rows[tokens] = video_rows
        layout.gather[video_rows] = tokens

        text_rows = (starts + counts)[:, None] + np.arange(text)
        layout.text_rows[here, :text] = text_rows
        first_text = bucket.tokens + sample * layout.text_rows.shape[1]
        layout.gather[text_rows] = first_text + np.arange(text)
        layout.text_weight[sample, here] = 1.0 / max(windows, 1)
        self._windows, self._rows = here.stop, total


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``counts[i]`` consecutive numbers from ``starts[i]`` on, for all i, in one array."""
    numbers = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    numbers += np.arange(len(numbers))
    return numbers
