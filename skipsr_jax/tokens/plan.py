"""TokenPlan: which tokens run, and who attends to whom, as plain index arrays.

It is built on the host in numpy from the keep masks of the clips packed into one sequence. Each
kept token stays in the window that the full grid gives it, with the position it has inside the
whole window (paper section 4.2, "Handling Window Attention"); windows with no kept token do
nothing. Kept tokens are stored in regular-window order, windows contiguous. In attention order a
window is its kept tokens followed by the text of its sample; the text's results are averaged over
the sample's windows (``tokens.layout``). For devices that share a pack, each with a shard of its
tokens, whole windows are assigned to the shards where that is possible (``tokens.shards``): then
attention in the regular partition stays on each device.

Invariant: shapes depend on the bucket, the number of samples and the text slots only (and on
whether windows could be assigned), never on resolution, frame count or mask. Padding points past
the end of what it indexes, where gathers fill with zeros.

Plans are named tuples, which JAX takes as pytrees without a registration: data workers build plans
without importing jax.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.kept import Kept, kept_of
from skipsr_jax.tokens.layout import Layout, LayoutWriter, Leaf, empty_layouts, ranges
from skipsr_jax.tokens.shards import Assignment, assign_pack
from skipsr_jax.tokens.windows import REGULAR, SHIFTED, window_cuts
from skipsr_jax.types import Bool, HostArray


class TokenPlan(NamedTuple):
    """One or more packs of kept tokens, ready for the transformer.

    Axes as in ``Layout``; along ``y`` index 0 is the regular partition and index 1 the shifted one.

    Attributes:
      patch_index (b, n): stored token -> patch of the pack's samples laid end to end (each in
        t, r, q order), -1 where the token is padding.
      sample (b, n): stored token -> sample of the pack, 0 where the token is padding.
      text_length (b, k): text tokens of each sample, at most l.
      position (b, y, n, 3): position of each stored token inside its whole window, from 0.
      extent (b, y, n, 3): size of that whole window along (time, row, column).
      layout: those of the two partitions.
      shard_layouts: those of the token shards in the regular partition, each with the windows,
        tokens and rows of its shard alone; axis ``y`` counts the shards. None where shards divide
        windows, or where there is one shard.
    """

    patch_index: Leaf
    sample: Leaf
    text_length: Leaf
    position: Leaf
    extent: Leaf
    layout: Layout
    shard_layouts: Layout | None = None

    @property
    def valid(self) -> Bool[Leaf, "b n"]:
        """Which stored tokens are real."""
        return self.patch_index >= 0


def smallest_bucket(keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1) -> Bucket:
    """The smallest bucket that holds the kept tokens of all samples of one pack.

    ``shards``: devices that share the pack, each an equal part of the bucket.
    """
    counts = [kept_of(mask).counts for mask in keep]
    windows = max(sum(len(one[y]) for one in counts) for y in (REGULAR, SHIFTED))
    return bucket_for(sum(int(mask.sum()) for mask in keep), windows, shards)


def bucket_with_window_capacity(
    keep: Sequence[Bool[HostArray, "_ _ _"]], shards: int = 1
) -> Bucket:
    """The bucket of so many kept tokens, with capacity for every window of the samples' grids.

    It depends on the grids and the number of kept tokens alone, not on where they are: so few
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
    shards: int = 1,
) -> TokenPlan:
    """The plan of one pack (b = 1), in numpy.

    Args:
      keep: per sample, which patches of its token grid run.
      text_lengths: per sample, its number of text tokens.
      bucket: the sizes to pad to; by default the smallest that fits.
      text_slots: capacity for the text of one sample; by default the longest.
      shards: devices that share the pack; whole windows are assigned to them if possible.

    Raises:
      ValueError: nothing is kept, or something does not fit into the bucket.
    """
    if len(keep) != len(text_lengths):
        raise ValueError(f"{len(keep)} keep masks but {len(text_lengths)} text lengths")
    bucket = bucket or smallest_bucket(keep, shards)
    slots = max(text_lengths) if text_slots is None else text_slots
    if max(text_lengths) > slots:
        raise ValueError(f"a text of {max(text_lengths)} tokens does not fit {slots} text slots")
    kept = [kept_of(mask) for mask in keep]
    total = sum(len(one.storage_index) for one in kept)
    if total > bucket.tokens:
        raise ValueError(
            f"{total} kept tokens do not fit the bucket of {bucket}; "
            f"use one with at least {smallest_bucket(keep, shards).tokens} tokens"
        )
    assignment = None
    if shards > 1:
        assignment = assign_pack([one.counts[REGULAR] for one in kept], bucket, shards)
    plan = _empty_plan(bucket, len(keep), slots)
    plan.text_length[0] = text_lengths
    writers = [LayoutWriter(plan.layout, y, bucket) for y in (REGULAR, SHIFTED)]
    first_patch = 0
    for i, (one, tokens, runs) in enumerate(_stored(kept, assignment)):
        for start, index in runs:
            _write_tokens(plan, i, one, first_patch, start, index)
        for y, order in ((REGULAR, tokens), (SHIFTED, tokens.take(one.shifted))):
            counts = one.counts[y]
            writers[y].append(i, order, counts, text_lengths[i], windows=len(counts))
        first_patch += keep[i].size
    if assignment is None:
        return plan
    return plan._replace(shard_layouts=_shard_layouts(kept, text_lengths, assignment, slots))


def stack_plans(plans: Sequence[TokenPlan]) -> TokenPlan:
    """Several packs of one bucket side by side along the batch axis.

    Raises ValueError when some plans have ``shard_layouts`` and others have none.
    """
    if len({plan.shard_layouts is None for plan in plans}) > 1:
        raise ValueError("plans with shard_layouts and plans without cannot be stacked")
    return _concatenated(*plans)


def _concatenated(*nodes: Leaf) -> Leaf:
    """Plans, layouts or arrays of one structure -> one whose arrays are joined along axis 0."""
    if isinstance(nodes[0], tuple):
        return type(nodes[0])(*map(_concatenated, *nodes))
    return None if nodes[0] is None else np.concatenate(nodes)


def _empty_plan(bucket: Bucket, samples: int, text_slots: int) -> TokenPlan:
    """A plan of one pack that holds nothing but padding, to be written to."""
    n = bucket.tokens
    return TokenPlan(
        patch_index=np.full((1, n), -1, np.int32),
        sample=np.zeros((1, n), np.int32),
        text_length=np.zeros((1, samples), np.int32),
        position=np.zeros((1, 2, n, 3), np.int16),
        extent=np.ones((1, 2, n, 3), np.int16),
        layout=empty_layouts(2, bucket, samples, text_slots),
    )


Runs = list[tuple[int, np.ndarray]]
"""Tokens that are stored one after the other: the index of the first one, and the tokens as indices
into storage order (``tokens.kept``). Slices of a bucket are written faster than single tokens."""


def _stored(
    kept: Sequence[Kept], assignment: Assignment | None
) -> Iterator[tuple[Kept, np.ndarray, Runs]]:
    """For each sample: its kept tokens, the index in the bucket of each, and the same as runs.

    Without an assignment samples are stored one after the other, else within each shard.
    """
    first = 0
    for i, one in enumerate(kept):
        if assignment is None:
            end = first + len(one.storage_index)
            yield one, np.arange(first, end, dtype=np.int32), [(first, one.storage_index)]
            first = end
            continue
        counts, starts, runs = one.counts[REGULAR], assignment.starts[i], []
        for shard in range(assignment.shards):
            own = assignment.owners[i] == shard
            if own.any():
                runs.append((int(starts[own][0]), one.storage_index[np.repeat(own, counts)]))
        yield one, ranges(starts, counts), runs


def _write_tokens(
    plan: TokenPlan, sample: int, kept: Kept, first_patch: int, start: int, index: np.ndarray
) -> None:
    """Writes what a plan says of single tokens, for a run of them; see ``Runs``."""
    here, tables = slice(start, start + len(index)), kept.tables
    plan.patch_index[0, here] = tables.patch.take(index) + first_patch
    plan.sample[0, here] = sample
    for y in (REGULAR, SHIFTED):
        plan.position[0, y, here] = tables.position[y].take(index, axis=0)
        plan.extent[0, y, here] = tables.extent[y].take(index, axis=0)


def _shard_layouts(
    kept: Sequence[Kept], text_lengths: Sequence[int], assignment: Assignment, text_slots: int
) -> Layout:
    """``TokenPlan.shard_layouts``."""
    shards, bucket = assignment.shards, assignment.bucket
    layouts = empty_layouts(shards, bucket, len(kept), text_slots)
    for shard in range(shards):
        writer = LayoutWriter(layouts, shard, bucket)
        for i, (one, text) in enumerate(zip(kept, text_lengths, strict=True)):
            own, counts = assignment.owners[i] == shard, one.counts[REGULAR]
            tokens = ranges(assignment.starts[i][own] - shard * bucket.tokens, counts[own])
            writer.append(i, tokens, counts[own], text, windows=len(counts))
    return layouts
