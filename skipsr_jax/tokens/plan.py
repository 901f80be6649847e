"""TokenPlan: which tokens run, and who attends to whom, as plain index arrays.

Built on the host in numpy from the keep masks of the clips packed into one sequence. Each kept
token stays in the window that the full grid gives it, with the position it has inside the whole
window (paper section 4.2, "Handling Window Attention"); windows with no kept token do nothing.
Kept tokens are stored in regular-window order, windows contiguous. In attention order a window is
its kept tokens followed by the text of its sample; the text's results are averaged over the
sample's windows. For devices that share a pack, each with an equal part of its tokens, whole
windows are dealt to the parts where that goes (``tokens.shards``): then attention in the regular
partition stays on each device.

Invariant: shapes depend on the bucket, the number of samples and the text slots only (and on
whether windows could be dealt), never on resolution, frame count or mask. Padding points past the
end of what it indexes, where gathers fill with zeros.

Plans are named tuples, which JAX takes as pytrees without a registration: data workers build plans
without importing jax.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.kept import Kept, kept_of
from skipsr_jax.tokens.shards import deal_windows
from skipsr_jax.tokens.windows import REGULAR, SHIFTED, window_cuts
from skipsr_jax.types import Bool, DType, HostArray

Leaf = Any
"""An array on host or device, or whatever stands for it in a pytree (a shape, a sharding)."""


class Layout(NamedTuple):
    """Who attends to whom, in several partitions or parts, along axis ``y``.

    Axes: ``b`` packs, ``n`` stored tokens, ``s`` attention rows (n + g * l), ``g`` windows,
    ``k`` samples in a pack, ``l`` text slots of a sample, ``m = k * l`` text rows.

    Attributes:
      gather (b, y, s): attention row -> row of (video ++ text), n + m where the row is padding.
      video_rows (b, y, n): stored token -> attention row, s where the token is padding.
      text_rows (b, y, g, l): window and text slot -> attention row, s where there is none.
      text_weight (b, y, k, g): share of each window in the text mean of each sample.
      cu_seqlens (b, y, g + 1): attention row at which each window begins, then the total, repeated.
    """

    gather: Leaf
    video_rows: Leaf
    text_rows: Leaf
    text_weight: Leaf
    cu_seqlens: Leaf


class TokenPlan(NamedTuple):
    """One or more packs of kept tokens, ready for the transformer.

    Axes as in Layout; along ``y`` index 0 is the regular partition and index 1 the shifted one.

    Attributes:
      patch_index (b, n): stored token -> patch of the pack's samples laid end to end (each in
        t, h, w order), -1 where the token is padding.
      sample (b, n): stored token -> sample of the pack, 0 where the token is padding.
      text_length (b, k): text tokens of each sample, at most l.
      position (b, y, n, 3): place of each stored token inside its whole window, from 0.
      extent (b, y, n, 3): size of that whole window along (time, row, column).
      layout: the two partitions.
      parts: the regular partition in as many parts of the tokens as there are devices, each part
        with its own windows, tokens and rows; None where windows are cut by the parts, or there is
        one part.
    """

    patch_index: Leaf
    sample: Leaf
    text_length: Leaf
    position: Leaf
    extent: Leaf
    layout: Layout
    parts: Layout | None = None

    @property
    def valid(self) -> Bool[Leaf, "b n"]:
        """Which stored tokens are real."""
        return self.patch_index >= 0


def required_bucket(keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1) -> Bucket:
    """The smallest bucket that holds the kept tokens of all samples of one pack.

    ``shards``: devices that share the pack, each an equal part of the bucket.
    """
    counts = [kept_of(mask).counts for mask in keep]
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


class _Dealt(NamedTuple):
    """Regular windows on the parts of a pack's tokens: of each sample's, the part, and where their
    tokens are stored from; the number of parts and the size of each."""

    owners: list[np.ndarray]
    starts: list[np.ndarray]
    shards: int
    part: Bucket


def _dealt(kept: Sequence[Kept], bucket: Bucket, shards: int) -> _Dealt | None:
    """None where some window would have to be cut."""
    counts = [one.counts[REGULAR] for one in kept]
    part, joined = Bucket(bucket.tokens // shards, bucket.windows), np.concatenate(counts)
    owners = deal_windows(joined, shards, part.tokens)
    if owners is None:
        return None
    starts = np.empty(len(joined), int)
    for d in range(shards):
        mine = owners == d
        starts[mine] = d * part.tokens + np.cumsum(joined[mine]) - joined[mine]
    ends = np.cumsum([len(one) for one in counts])[:-1]
    return _Dealt(np.split(owners, ends), np.split(starts, ends), shards, part)


def _runs(one: Kept, dealt: _Dealt, i: int) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Of sample ``i``: the kept places that are stored one after the other from a number on, part
    by part; and for each kept place where it is stored."""
    counts, runs = one.counts[REGULAR], []
    for d in range(dealt.shards):
        mine = dealt.owners[i] == d
        if mine.any():
            runs.append((int(dealt.starts[i][mine][0]), one.place[np.repeat(mine, counts)]))
    return runs, _within(dealt.starts[i], counts)


def _parts(kept: Sequence[Kept], texts: Sequence[int], dealt: _Dealt, slots: int) -> Layout:
    """``TokenPlan.parts``."""
    layout = _empty_layout(dealt.shards, dealt.part, len(kept), slots)
    for d in range(dealt.shards):
        filled = _Filled(dealt.part)
        for i, (one, text) in enumerate(zip(kept, texts, strict=True)):
            mine, counts = dealt.owners[i] == d, one.counts[REGULAR]
            token = _within(dealt.starts[i][mine] - d * dealt.part.tokens, counts[mine])
            _fill(_only(layout, d), filled, _Sample(i, text, len(counts)), token, counts[mine])
    return layout


def build_plan(
    keep: Sequence[Bool[HostArray, "_ _ _"]],
    text_lengths: Sequence[int],
    bucket: Bucket | None = None,
    text_slots: int | None = None,
    shards: int = 1,
) -> TokenPlan:
    """The plan of one pack (b = 1), in numpy.

    Args:
      keep: per sample, which patches of its token grid run.
      text_lengths: per sample, its number of text tokens.
      bucket: the sizes to pad to; by default the smallest that fits.
      text_slots: room for the text of one sample; by default the longest.
      shards: devices that share the pack; whole windows are dealt to them if possible.

    Raises:
      ValueError: nothing is kept, or something does not fit into the bucket.
    """
    if len(keep) != len(text_lengths):
        raise ValueError(f"{len(keep)} keep masks but {len(text_lengths)} text lengths")
    bucket = bucket or required_bucket(keep, shards)
    slots = max(text_lengths) if text_slots is None else text_slots
    if max(text_lengths) > slots:
        raise ValueError(f"a text of {max(text_lengths)} tokens does not fit {slots} text slots")
    kept = [kept_of(mask) for mask in keep]
    total = sum(len(one.place) for one in kept)
    if total > bucket.tokens:
        raise ValueError(
            f"{total} kept tokens do not fit the bucket of {bucket}; "
            f"use one with at least {required_bucket(keep, shards).tokens} tokens"
        )
    plan = _padding(bucket, len(keep), slots)
    dealt = _dealt(kept, bucket, shards) if shards > 1 else None
    if dealt is not None:
        plan = plan._replace(parts=_parts(kept, text_lengths, dealt, slots))
    filled = [_Filled(bucket), _Filled(bucket)]
    first_patch = first = 0
    for i, (one, text) in enumerate(zip(kept, text_lengths, strict=True)):
        count = len(one.place)
        if dealt is None:
            runs = [(first, one.place)]
            token = np.arange(first, first + count, dtype=np.int32)
            shifted = one.shifted + np.int32(first)
        else:
            runs, token = _runs(one, dealt, i)
            shifted = token.take(one.shifted)
        for start, place in runs:
            here = slice(start, start + len(place))
            plan.patch_index[0, here] = one.geometry.patch.take(place) + first_patch
            plan.sample[0, here] = i
            for y in (REGULAR, SHIFTED):
                plan.position[0, y, here] = one.geometry.position[y].take(place, axis=0)
                plan.extent[0, y, here] = one.geometry.extent[y].take(place, axis=0)
        for y, order in ((REGULAR, token), (SHIFTED, shifted)):
            sample = _Sample(i, text, len(one.counts[y]))
            _fill(_only(plan.layout, y), filled[y], sample, order, one.counts[y])
        first_patch, first = first_patch + keep[i].size, first + count
    plan.text_length[0] = text_lengths
    return plan


def _only(layout: Layout, y: int) -> Layout:
    """One partition or part, without the axes b and y; a view."""
    return Layout(*(array[0, y] for array in layout))


def _within(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``counts`` numbers from each of ``starts`` on, joined."""
    joined = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    joined += np.arange(len(joined))
    return joined


def stack_plans(plans: Sequence[TokenPlan]) -> TokenPlan:
    """Several packs of one bucket side by side along the batch axis.

    Raises ValueError when some plans have ``parts`` and others have none.
    """
    if len({plan.parts is None for plan in plans}) > 1:
        raise ValueError("plans with parts and plans without cannot be stacked")
    return _concatenated(*plans)


def _concatenated(*nodes: Leaf) -> Leaf:
    """Plans, layouts or arrays of one structure -> one whose arrays are joined along axis 0."""
    if isinstance(nodes[0], tuple):
        return type(nodes[0])(*map(_concatenated, *nodes))
    return None if nodes[0] is None else np.concatenate(nodes)


def _full(fill: int, *shape: int, dtype: DType = np.int32) -> np.ndarray:
    return np.full((1, *shape), fill, dtype)


def _padding(bucket: Bucket, samples: int, slots: int) -> TokenPlan:
    """A plan of nothing but padding, to be written to."""
    n = bucket.tokens
    return TokenPlan(
        patch_index=_full(-1, n),
        sample=_full(0, n),
        text_length=_full(0, samples),
        position=_full(0, 2, n, 3, dtype=np.int16),
        extent=_full(1, 2, n, 3, dtype=np.int16),
        layout=_empty_layout(2, bucket, samples, slots),
    )


def _empty_layout(number: int, bucket: Bucket, samples: int, slots: int) -> Layout:
    """So many partitions, or parts, of nothing but padding."""
    n, windows = bucket.tokens, bucket.windows
    rows = n + windows * slots
    return Layout(
        gather=_full(n + samples * slots, number, rows),
        video_rows=_full(rows, number, n),
        text_rows=_full(rows, number, windows, slots),
        text_weight=np.zeros((1, number, samples, windows), np.float32),
        cu_seqlens=_full(0, number, windows + 1),
    )


@dataclasses.dataclass
class _Filled:
    """How much of a layout is filled so far: windows and attention rows, of a bucket."""

    bucket: Bucket
    windows: int = 0
    rows: int = 0


class _Sample(NamedTuple):
    """A sample of the pack: its number, text tokens, and windows."""

    number: int
    text: int
    windows: int


def _fill(
    layout: Layout, filled: _Filled, sample: _Sample, token: np.ndarray, kept: np.ndarray
) -> None:
    """Writes a sample behind those before it, into one layout (without b and y).

    ``token``: where the kept tokens are stored, window by window; ``kept``: how many each window
    has, all some.
    """
    bucket, text = filled.bucket, sample.text
    here = slice(filled.windows, filled.windows + len(kept))
    if here.stop > bucket.windows:
        raise ValueError(f"{here.stop} windows or more do not fit the bucket of {bucket}")
    lengths = kept + text
    ends = filled.rows + np.cumsum(lengths)
    starts = ends - lengths
    rows = filled.rows + int(lengths.sum())
    layout.cu_seqlens[1 + here.start : 1 + here.stop] = ends
    layout.cu_seqlens[1 + here.stop :] = rows

    video = _within(starts, kept)
    layout.video_rows[token] = video
    layout.gather[video] = token

    copies = (starts + kept)[:, None] + np.arange(text)
    layout.text_rows[here, :text] = copies
    text_row = bucket.tokens + sample.number * layout.text_rows.shape[1]
    layout.gather[copies] = text_row + np.arange(text)
    layout.text_weight[sample.number, here] = 1.0 / max(sample.windows, 1)
    filled.windows, filled.rows = here.stop, rows
