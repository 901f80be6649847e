"""TokenPlan: which tokens run, and who attends to whom, as plain index arrays.

Built on the host in numpy from the keep masks of the clips packed into one sequence. Each kept
token stays in the window that the full grid gives it, with the position it has inside the whole
window (paper section 4.2, "Handling Window Attention"); windows with no kept token do nothing.
Kept tokens are stored in regular-window order, windows contiguous. In attention order a window is
its kept tokens followed by the text of its sample; the text's results are averaged over the
sample's windows.

Invariant: shapes depend on the bucket, the number of samples and the text slots only, never on
resolution, frame count or mask. Padding points past the end of what it indexes, where gathers fill
with zeros.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.windows import Grid, window_cuts
from skipsr_jax.types import Array, Bool, DType, HostArray

Leaf = Any
"""An array on host or device, or whatever stands for it in a pytree (a shape, a sharding)."""

REGULAR, SHIFTED = 0, 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
    """The two window partitions of a plan: index 0 of axis ``y`` is regular, index 1 shifted.

    Axes: ``b`` packs, ``n`` stored tokens, ``s`` attention rows (n + g * l), ``g`` windows,
    ``k`` samples in a pack, ``l`` text slots of a sample, ``m = k * l`` text rows.

    Attributes:
      position (b, y, n, 3): place of each stored token inside its whole window, from 0.
      extent (b, y, n, 3): size of that whole window along (time, row, column).
      gather (b, y, s): attention row -> row of (video ++ text), n + m where the row is padding.
      video_rows (b, y, n): stored token -> attention row, s where the token is padding.
      text_rows (b, y, g, l): window and text slot -> attention row, s where there is none.
      text_weight (b, y, k, g): share of each window in the text mean of each sample.
      cu_seqlens (b, y, g + 1): attention row at which each window begins, then the total, repeated.
    """

    position: Leaf
    extent: Leaf
    gather: Leaf
    video_rows: Leaf
    text_rows: Leaf
    text_weight: Leaf
    cu_seqlens: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenPlan:
    """One or more packs of kept tokens, ready for the transformer.

    Attributes:
      patch_index (b, n): stored token -> patch of the pack's samples laid end to end (each in
        t, h, w order), -1 where the token is padding.
      sample (b, n): stored token -> sample of the pack, 0 where the token is padding.
      text_length (b, k): text tokens of each sample, at most l.
      layout: the two window partitions.
    """

    patch_index: Leaf
    sample: Leaf
    text_length: Leaf
    layout: Layout

    @property
    def valid(self) -> Bool[Array | HostArray, "b n"]:
        """Which stored tokens are real."""
        return self.patch_index >= 0


def _axis_index(cuts: np.ndarray) -> np.ndarray:
    """For each place along an axis, the number of its window."""
    return np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """What a grid says of its patches, whichever of them are kept, in the order in which they would
    be stored: window by window of the regular partition. Memory is then read from front to back.

    Indices are of the kind of integers that numpy takes by without a cast.

    Attributes:
      patch (p,): the patches in that order.
      shifted (p,): places in that order, window by window of the shifted partition.
      starts: for each partition, where its windows begin among places so ordered.
      position, extent (2, p, 3): as in Layout.
    """

    patch: np.ndarray
    shifted: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    position: np.ndarray
    extent: np.ndarray


@functools.lru_cache(maxsize=16)
def _geometry(grid: Grid) -> _Geometry:
    coordinates = np.indices(grid, np.int32).reshape(3, -1)
    windows, positions, extents = [], [], []
    for y in (REGULAR, SHIFTED):
        cuts = window_cuts(grid, y == SHIFTED)
        along = [_axis_index(c)[x] for c, x in zip(cuts, coordinates, strict=True)]
        begin = np.stack([c[i] for c, i in zip(cuts, along, strict=True)], -1)
        end = np.stack([c[i + 1] for c, i in zip(cuts, along, strict=True)], -1)
        frames, rows = len(cuts[0]) - 1, len(cuts[1]) - 1
        windows.append((along[2] * rows + along[1]) * frames + along[0])
        positions.append(coordinates.T - begin)
        extents.append(end - begin)
    patch = np.argsort(windows[REGULAR], kind="stable")
    regular, shifted = (window[patch] for window in windows)
    regrouped = np.argsort(shifted, kind="stable")
    return _Geometry(
        patch,
        regrouped,
        (_steps(regular), _steps(shifted[regrouped])),
        np.stack([position[patch] for position in positions]).astype(np.int16),
        np.stack([extent[patch] for extent in extents]).astype(np.int16),
    )


def _steps(rising: np.ndarray) -> np.ndarray:
    """Where each new number of a rising list begins."""
    return np.flatnonzero(np.diff(rising, prepend=-1))


class _Kept(NamedTuple):
    """The kept patches of one sample.

    Attributes:
      geometry: of its grid.
      place (n,): where they would be stored if all patches were, rising.
      shifted (n,): stored tokens window by window of the shifted partition.
      counts: for each partition, how many each window has, windows without left out.
    """

    geometry: _Geometry
    place: np.ndarray
    shifted: np.ndarray
    counts: tuple[np.ndarray, np.ndarray]


def _kept(mask: Bool[HostArray, "_ _ _"]) -> _Kept:
    """take: several times as fast as brackets for rows of three, and a little for numbers."""
    geometry = _geometry(mask.shape)
    stored = mask.reshape(-1).take(geometry.patch)
    flags = stored, stored.take(geometry.shifted)
    counts = [
        np.add.reduceat(flag, starts, dtype=np.int32)
        for flag, starts in zip(flags, geometry.starts, strict=True)
    ]
    token_of = np.cumsum(stored, dtype=np.int32) - 1
    shifted = token_of.take(geometry.shifted.take(np.flatnonzero(flags[SHIFTED])))
    regular_counts, shifted_counts = (count[count > 0] for count in counts)
    return _Kept(geometry, np.flatnonzero(stored), shifted, (regular_counts, shifted_counts))


def required_bucket(keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1) -> Bucket:
    """The smallest bucket that holds the kept tokens of all samples of one pack.

    ``shards``: devices that share the pack, each an equal part of the bucket.
    """
    counts = [_kept(mask).counts for mask in keep]
    windows = max(sum(len(one[y]) for one in counts) for y in (REGULAR, SHIFTED))
    return bucket_for(sum(int(mask.sum()) for mask in keep), windows, shards)


def roomy_bucket(keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1) -> Bucket:
    """The bucket of so many kept tokens, with room for every window of the samples' grids.

    It depends on the grids and the number of kept tokens alone, not on where they lie: so few
    programs serve all masks of a clip, and which ones is known before there are masks.
    """
    windows = [
        sum(
            math.prod(len(cuts) - 1 for cuts in window_cuts(mask.shape, y == SHIFTED))
            for mask in keep
        )
        for y in (REGULAR, SHIFTED)
    ]
    return bucket_for(sum(int(mask.sum()) for mask in keep), max(windows), shards)


def build_plan(
    keep: Sequence[Bool[HostArray, "_ _ _"]],
    text_lengths: Sequence[int],
    bucket: Bucket | None = None,
    text_slots: int | None = None,
) -> TokenPlan:
    """The plan of one pack (b = 1), in numpy.

    Args:
      keep: per sample, which patches of its token grid run.
      text_lengths: per sample, its number of text tokens.
      bucket: the sizes to pad to; by default the smallest that fits.
      text_slots: room for the text of one sample; by default the longest.

    Raises:
      ValueError: nothing is kept, or something does not fit into the bucket.
    """
    if len(keep) != len(text_lengths):
        raise ValueError(f"{len(keep)} keep masks but {len(text_lengths)} text lengths")
    bucket = bucket or required_bucket(keep)
    slots = max(text_lengths) if text_slots is None else text_slots
    if max(text_lengths) > slots:
        raise ValueError(f"a text of {max(text_lengths)} tokens does not fit {slots} text slots")

    counts = [int(mask.sum()) for mask in keep]
    if sum(counts) > bucket.tokens:
        raise ValueError(
            f"{sum(counts)} kept tokens do not fit the bucket of {bucket}; "
            f"use one with at least {required_bucket(keep).tokens} tokens"
        )
    plan = _padding(bucket, len(keep), slots)
    filled = [_Filled(), _Filled()]
    first_patch = 0
    for i, (mask, count) in enumerate(zip(keep, counts, strict=True)):
        kept = _kept(mask)
        here = slice(filled[REGULAR].tokens, filled[REGULAR].tokens + count)
        plan.patch_index[0, here] = kept.geometry.patch.take(kept.place)
        plan.patch_index[0, here] += first_patch
        plan.sample[0, here] = i
        for y, token in ((REGULAR, np.arange(count, dtype=np.int32)), (SHIFTED, kept.shifted)):
            layout = jax.tree.map(lambda array, y=y: array[0, y], plan.layout)
            # "clip" writes to the place itself, the usual mode by way of a copy.
            for of_all, out in (
                (kept.geometry.position, layout.position),
                (kept.geometry.extent, layout.extent),
            ):
                of_all[y].take(kept.place, axis=0, out=out[here], mode="clip")
            _fill(layout, filled[y], i, token, kept.counts[y], text_lengths[i], bucket)
        first_patch += mask.size
    plan.text_length[0] = text_lengths
    return plan


def stack_plans(plans: Sequence[TokenPlan]) -> TokenPlan:
    """Several packs of one bucket side by side along the batch axis."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *plans)


def _padding(bucket: Bucket, samples: int, slots: int) -> TokenPlan:
    """A plan of nothing but padding, to be written to."""
    n, windows = bucket.tokens, bucket.windows
    rows = n + windows * slots

    def full(fill: int, *shape: int, dtype: DType = np.int32) -> np.ndarray:
        return np.full((1, *shape), fill, dtype)

    return TokenPlan(
        patch_index=full(-1, n),
        sample=full(0, n),
        text_length=full(0, samples),
        layout=Layout(
            position=full(0, 2, n, 3, dtype=np.int16),
            extent=full(1, 2, n, 3, dtype=np.int16),
            gather=full(n + samples * slots, 2, rows),
            video_rows=full(rows, 2, n),
            text_rows=full(rows, 2, windows, slots),
            text_weight=np.zeros((1, 2, samples, windows), np.float32),
            cu_seqlens=full(0, 2, windows + 1),
        ),
    )


@dataclasses.dataclass
class _Filled:
    """How much of a layout is filled so far: stored tokens, windows, attention rows."""

    tokens: int = 0
    windows: int = 0
    rows: int = 0


def _fill(
    layout: Layout,
    filled: _Filled,
    sample: int,
    token: np.ndarray,
    kept: np.ndarray,
    text: int,
    bucket: Bucket,
) -> None:
    """Writes a sample behind those before it, into one partition (a Layout without b and y).

    ``token``: the kept tokens window by window, numbered as the sample stores them; ``kept``: how
    many each window has, all some; ``text``: how many text tokens.
    """
    here = slice(filled.windows, filled.windows + len(kept))
    if here.stop > bucket.windows:
        raise ValueError(f"{here.stop} windows or more do not fit the bucket of {bucket}")
    lengths = kept + text
    ends = filled.rows + np.cumsum(lengths)
    starts = ends - lengths
    rows = filled.rows + int(lengths.sum())
    layout.cu_seqlens[1 + here.start : 1 + here.stop] = ends
    layout.cu_seqlens[1 + here.stop :] = rows

    video = np.repeat(starts - (np.cumsum(kept) - kept), kept)
    video += np.arange(len(token))
    layout.video_rows[filled.tokens :][token] = video
    layout.gather[video] = token + np.int32(filled.tokens)

    copies = (starts + kept)[:, None] + np.arange(text)
    layout.text_rows[here, :text] = copies
    text_row = bucket.tokens + sample * layout.text_rows.shape[1]
    layout.gather[copies] = text_row + np.arange(text)
    layout.text_weight[sample, here] = 1.0 / max(len(kept), 1)
    filled.tokens, filled.windows, filled.rows = filled.tokens + len(token), here.stop, rows
