"""Which of the devices that share a sequence stores which window of the regular partition.

Where every window lies whole on one device, attention in that partition needs no exchange. Each
device has room for as many tokens as the others, so windows are dealt until each has its share:
by chance, which the many sizes of windows in real masks make easy, but the same way every time.
"""

import numpy as np

from skipsr_jax.types import HostArray, Int

TRIES = 32


def _taken(counts: list[int], lowest: int, highest: int, wanted: int) -> list[bool] | None:
    """Which windows to take for between ``lowest`` and ``highest`` tokens, as near to ``wanted`` as
    can be; None where no choice of windows has so many."""
    reached = [1]  # of the first windows; bit s: some choice of them has s tokens
    for count in counts:
        reached.append(reached[-1] | reached[-1] << count)
    possible = reached[-1] >> lowest & (1 << highest - lowest + 1) - 1
    if not possible:
        return None
    nearest = sorted(range(lowest, highest + 1), key=lambda total: abs(total - wanted))
    total = next(total for total in nearest if possible >> total - lowest & 1)
    taken = []
    for count, before in zip(reversed(counts), reversed(reached[:-1]), strict=True):
        taken.append(not before >> total & 1)
        total -= count if taken[-1] else 0
    return taken[::-1]


def _dealt(
    counts: Int[HostArray, " w"], shards: int, room: int, rng: np.random.Generator, evenly: bool
) -> Int[HostArray, " w"] | None:
    """One try: windows in any order are halved, and each half again; ``evenly`` or anyhow."""
    if shards == 1:
        return np.zeros(len(counts), int)
    total, left = int(counts.sum()), shards // 2
    lowest, highest = max(0, total - (shards - left) * room), min(total, left * room)
    if lowest > highest:
        return None
    order = rng.permutation(len(counts))
    wanted = total * left // shards if evenly else int(rng.integers(lowest, highest + 1))
    taken = _taken(counts[order].tolist(), lowest, highest, wanted)
    if taken is None:
        return None
    taken, owner = np.array(taken), np.empty(len(counts), int)
    halves = (order[taken], left, 0), (order[~taken], shards - left, left)
    for half, number, first in halves:
        part = _dealt(counts[half], number, room, rng, evenly)
        if part is None:
            return None
        owner[half] = first + part
    return owner


def deal_windows(
    counts: Int[HostArray, " w"], shards: int, room: int
) -> Int[HostArray, " w"] | None:
    """The shard of each window, so that none gets more than ``room`` tokens; None: no way found.

    ``counts``: tokens of each window.
    """
    rng = np.random.default_rng(0)
    if len(counts) < shards or counts.sum() > shards * room:
        return None
    tries = (_dealt(counts, shards, room, rng, evenly=i % 2 == 0) for i in range(TRIES))
    return next((owner for owner in tries if owner is not None), None)
