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
from typing import Any

import jax
import numpy as np

from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.windows import Grid, window_cuts
from skipsr_jax.types import Array, Bool, HostArray

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
    """What a partition says of all patches of a grid, whichever of them are kept.

    Attributes:
      order (p,): patches window by window, within one as the regular partition stores them.
      window (p,): of the patches in that order, rising.
      position, extent (p, 3): of each patch, in t, h, w order.
    """

    order: np.ndarray
    window: np.ndarray
    position: np.ndarray
    extent: np.ndarray


@functools.lru_cache(maxsize=16)
def _geometry(grid: Grid, shifted: bool) -> _Geometry:
    cuts = window_cuts(grid, shifted)
    coordinates = np.indices(grid, np.int32).reshape(3, -1)
    along = [_axis_index(c)[x] for c, x in zip(cuts, coordinates, strict=True)]
    starts = np.stack([c[i] for c, i in zip(cuts, along, strict=True)], -1)
    ends = np.stack([c[i + 1] for c, i in zip(cuts, along, strict=True)], -1)
    frames, rows = len(cuts[0]) - 1, len(cuts[1]) - 1
    window = (along[2] * rows + along[1]) * frames + along[0]
    stored = _geometry(grid, False).order if shifted else np.arange(len(window))
    order = stored[np.argsort(window[stored], kind="stable")]
    return _Geometry(
        order.astype(np.int32),
        window[order].astype(np.int32),
        (coordinates.T - starts).astype(np.int32),
        (ends - starts).astype(np.int32),
    )


@dataclasses.dataclass(frozen=True)
class _Placed:
    """The kept tokens of one sample in one partition.

    Attributes:
      token (kept,): stored tokens, window by window.
      window (kept,): their windows, rising.
      position, extent (kept, 3): of each stored token, in the order of storage.
    """

    token: np.ndarray
    window: np.ndarray
    position: np.ndarray
    extent: np.ndarray


def _place(
    keep: Bool[HostArray, "_ _ _"], stored: np.ndarray, token_of: np.ndarray, shifted: bool
) -> _Placed:
    """``stored``: kept patches in the order of storage; ``token_of``: the inverse."""
    geometry = _geometry(keep.shape, shifted)
    kept = np.flatnonzero(keep.reshape(-1).take(geometry.order))
    return _Placed(  # take: several times as fast as brackets for rows of three
        token=token_of.take(geometry.order.take(kept)),
        window=geometry.window.take(kept),
        position=geometry.position.take(stored, axis=0),
        extent=geometry.extent.take(stored, axis=0),
    )


def required_bucket(keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1) -> Bucket:
    """The smallest bucket that holds the kept tokens of all samples of one pack.

    ``shards``: devices that share the pack, each an equal part of the bucket.
    """
    windows = [0, 0]
    for mask in keep:
        for y in (REGULAR, SHIFTED):
            geometry = _geometry(mask.shape, y == SHIFTED)
            kept = geometry.window[mask.reshape(-1)[geometry.order]]
            windows[y] += _steps(kept).size
    return bucket_for(sum(int(mask.sum()) for mask in keep), max(windows), shards)


def _steps(rising: np.ndarray) -> np.ndarray:
    """Where each new number of a rising list begins."""
    new = np.ones(len(rising), bool)
    new[1:] = rising[1:] != rising[:-1]
    return np.flatnonzero(new)


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
    placed: dict[int, list[_Placed]] = {REGULAR: [], SHIFTED: []}
    patches, first_patch = [], 0
    for mask, count in zip(keep, counts, strict=True):
        order = _geometry(mask.shape, False).order
        stored = order.take(np.flatnonzero(mask.reshape(-1).take(order)))
        token_of = np.empty(mask.size, np.int32)
        token_of[stored] = np.arange(count)
        for y, samples in placed.items():
            samples.append(_place(mask, stored, token_of, y == SHIFTED))
        patches.append(stored + first_patch)
        first_patch += mask.size
    layouts = [_layout(samples, text_lengths, bucket, slots) for samples in placed.values()]
    return TokenPlan(
        patch_index=_padded(np.concatenate(patches), bucket.tokens, -1)[None],
        sample=_padded(np.repeat(np.arange(len(keep)), counts), bucket.tokens, 0)[None],
        text_length=np.asarray(text_lengths, np.int32)[None],
        layout=jax.tree.map(lambda *arrays: np.stack(arrays)[None], *layouts),
    )


def stack_plans(plans: Sequence[TokenPlan]) -> TokenPlan:
    """Several packs of one bucket side by side along the batch axis."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *plans)


def _padded(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    out = np.full((length, *values.shape[1:]), fill, np.int32)
    out[: len(values)] = values
    return out


def _layout(
    placed: Sequence[_Placed], text_lengths: Sequence[int], bucket: Bucket, slots: int
) -> Layout:
    """One partition of a pack: ``Layout`` without its first two axes."""
    samples = len(placed)
    rows = bucket.tokens + bucket.windows * slots
    gather = np.full(rows, bucket.tokens + samples * slots, np.int32)
    video_rows = np.full(bucket.tokens, rows, np.int32)
    text_rows = np.full((bucket.windows, slots), rows, np.int32)
    weight = np.zeros((samples, bucket.windows), np.float32)
    lengths = np.zeros(bucket.windows, np.int64)

    token, window, row = 0, 0, 0  # filled so far
    for i, (sample, text) in enumerate(zip(placed, text_lengths, strict=True)):
        first = _steps(sample.window)
        kept = np.diff(first, append=len(sample.window))
        here = slice(window, window + len(first))
        if here.stop > bucket.windows:
            raise ValueError(f"{here.stop} windows or more do not fit the bucket of {bucket}")
        lengths[here] = kept + text
        starts = row + np.cumsum(lengths[here]) - lengths[here]

        rank = np.arange(len(sample.token)) - np.repeat(first, kept)
        video = np.repeat(starts, kept) + rank
        video_rows[token + sample.token] = video
        gather[video] = token + sample.token

        copies = (starts + kept)[:, None] + np.arange(text)
        text_rows[here, :text] = copies
        gather[copies] = bucket.tokens + i * slots + np.arange(text)
        weight[i, here] = 1.0 / max(len(first), 1)
        token, window, row = token + len(rank), here.stop, row + int(lengths[here].sum())

    return Layout(
        position=_padded(np.concatenate([p.position for p in placed]), bucket.tokens, 0),
        extent=_padded(np.concatenate([p.extent for p in placed]), bucket.tokens, 1),
        gather=gather,
        video_rows=video_rows,
        text_rows=text_rows,
        text_weight=weight,
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )
