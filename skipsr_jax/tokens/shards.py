"""Which of the devices that share a sequence stores which window of the regular partition.

Where every window is whole on one device, attention in that partition needs no exchange. All
devices have the same capacity for tokens, so windows are assigned until each is about full. The
search is random, which succeeds easily since real masks make windows of many sizes, and repeatable.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.types import HostArray, Int

TRIES = 32
"""Random assignments that are tried before windows are left to be divided."""


class Assignment(NamedTuple):
    """Regular windows of a pack's samples, assigned to its token shards.

    Attributes:
      shards: their number. bucket: of one shard.
      owners: for each sample, the shard of each of its windows.
      starts: for each sample, the bucket's index of each window's first token, over all shards.
    """

    shards: int
    bucket: Bucket
    owners: list[np.ndarray]
    starts: list[np.ndarray]


def assign_pack(counts: Sequence[np.ndarray], bucket: Bucket, shards: int) -> Assignment | None:
    """The assignment of all windows of a pack; None where some window would have to be divided.

    Windows of a shard are stored one after the other, those of a sample behind those of the samples
    before it. ``counts``: for each sample, the tokens of each window.
    """
    shard_bucket = Bucket(bucket.tokens // shards, bucket.windows)
    flat = np.concatenate(counts)
    owners = assign_windows(flat, shards, shard_bucket.tokens)
    if owners is None:
        return None
    starts = np.empty(len(flat), int)
    for shard in range(shards):
        own = owners == shard
        starts[own] = shard * shard_bucket.tokens + np.cumsum(flat[own]) - flat[own]
    ends = np.cumsum([len(one) for one in counts])[:-1]
    return Assignment(shards, shard_bucket, np.split(owners, ends), np.split(starts, ends))


def assign_windows(
    counts: Int[HostArray, " g"], shards: int, capacity: int
) -> Int[HostArray, " g"] | None:
    """The shard of each window, so that none has more than ``capacity`` tokens; None: none found.

    ``counts``: tokens of each window. The same arguments give the same assignment.
    """
    rng = np.random.default_rng(0)
    if len(counts) < shards or counts.sum() > shards * capacity:
        return None
    tries = (_bisected(counts, shards, capacity, rng, evenly=i % 2 == 0) for i in range(TRIES))
    return next((owners for owners in tries if owners is not None), None)


def _bisected(
    counts: Int[HostArray, " g"],
    shards: int,
    capacity: int,
    rng: np.random.Generator,
    evenly: bool,
) -> Int[HostArray, " g"] | None:
    """One try: windows in random order are divided in two, and each half again.

    ``evenly``: in halves of about equal tokens, else at random. None where the halves do not fit.
    """
    if shards == 1:
        return np.zeros(len(counts), int)
    total, left = int(counts.sum()), shards // 2
    lowest, highest = max(0, total - (shards - left) * capacity), min(total, left * capacity)
    if lowest > highest:
        return None
    order = rng.permutation(len(counts))
    wanted = total * left // shards if evenly else int(rng.integers(lowest, highest + 1))
    chosen = _subset(counts[order].tolist(), lowest, highest, wanted)
    if chosen is None:
        return None
    chosen, owners = np.array(chosen), np.empty(len(counts), int)
    halves = (order[chosen], left, 0), (order[~chosen], shards - left, left)
    for half, number, first in halves:
        half_owners = _bisected(counts[half], number, capacity, rng, evenly)
        if half_owners is None:
            return None
        owners[half] = first + half_owners
    return owners


def _subset(counts: list[int], lowest: int, highest: int, wanted: int) -> list[bool] | None:
    """Which windows have between ``lowest`` and ``highest`` tokens together (subset sum).

    The sum is as near to ``wanted`` as can be. None where no subset has such a sum. Sets of
    reachable sums are the bits of integers.
    """
    reachable = [1]  # of the first windows; bit i: some subset of them has i tokens
    for count in counts:
        reachable.append(reachable[-1] | reachable[-1] << count)
    possible = reachable[-1] >> lowest & (1 << highest - lowest + 1) - 1
    if not possible:
        return None
    nearest = sorted(range(lowest, highest + 1), key=lambda total: abs(total - wanted))
    total = next(total for total in nearest if possible >> total - lowest & 1)
    chosen = []
    for count, without in zip(reversed(counts), reversed(reachable[:-1]), strict=True):
        chosen.append(not without >> total & 1)
        total -= count if chosen[-1] else 0
    return chosen[::-1]
