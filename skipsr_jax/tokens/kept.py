"""The kept patches of one sample, in the order in which they are stored and window by window.

What does not depend on the mask is looked up in tables that are made once for each grid.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from skipsr_jax.tokens.windows import REGULAR, SHIFTED, Grid, window_cuts
from skipsr_jax.types import Bool, HostArray


@dataclasses.dataclass(frozen=True)
class GridTables:
    """All patches of a grid in storage order, which is window by window of the regular partition.

    Since masks keep this order, memory is read from front to back. Indices have the integer type
    that numpy indexes with, without a cast.

    Attributes:
      patch (patches,): the patches in storage order.
      shifted (patches,): indices into storage order, window by window of the shifted partition.
      starts: for each partition, where its windows begin, among the patches ordered by it.
      position, extent (2, patches, 3): as in ``plan.TokenPlan``, in storage order.
    """

    patch: np.ndarray
    shifted: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    position: np.ndarray
    extent: np.ndarray


@functools.lru_cache(maxsize=16)
def grid_tables(grid: Grid) -> GridTables:
    """The tables of a grid, made once for each."""
    coordinates = np.indices(grid, np.int32).reshape(3, -1)
    windows, positions, extents = [], [], []
    for y in (REGULAR, SHIFTED):
        cuts = window_cuts(grid, y == SHIFTED)
        along = [_window_number(c)[x] for c, x in zip(cuts, coordinates, strict=True)]
        begin = np.stack([c[i] for c, i in zip(cuts, along, strict=True)], -1)
        end = np.stack([c[i + 1] for c, i in zip(cuts, along, strict=True)], -1)
        frames, rows = len(cuts[0]) - 1, len(cuts[1]) - 1
        windows.append((along[2] * rows + along[1]) * frames + along[0])
        positions.append(coordinates.T - begin)
        extents.append(end - begin)
    patch = np.argsort(windows[REGULAR], kind="stable")
    regular, shifted = (window[patch] for window in windows)
    by_shifted = np.argsort(shifted, kind="stable")
    return GridTables(
        patch,
        by_shifted,
        (_starts(regular), _starts(shifted[by_shifted])),
        np.stack([position[patch] for position in positions]).astype(np.int16),
        np.stack([extent[patch] for extent in extents]).astype(np.int16),
    )


def _window_number(cuts: np.ndarray) -> np.ndarray:
    """For each position along an axis, the number of its window."""
    return np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))


def _starts(rising: np.ndarray) -> np.ndarray:
    """Where each new number of a rising list begins."""
    return np.flatnonzero(np.diff(rising, prepend=-1))


class Kept(NamedTuple):
    """The kept patches of one sample, n in all.

    Attributes:
      tables: of its grid.
      storage_index (n,): the kept patches as indices into storage order, rising.
      shifted (n,): indices of the kept patches, 0 to n - 1, window by window of the shifted
        partition.
      counts: for each partition, how many each window has, windows without left out.
    """

    tables: GridTables
    storage_index: np.ndarray
    shifted: np.ndarray
    counts: tuple[np.ndarray, np.ndarray]


def kept_of(mask: Bool[HostArray, "_ _ _"]) -> Kept:
    """The kept patches of a sample's keep mask."""
    tables = grid_tables(mask.shape)
    stored = mask.reshape(-1).take(tables.patch)  # take: a little faster than brackets
    flags = stored, stored.take(tables.shifted)
    counts = [
        np.add.reduceat(flag, starts, dtype=np.int32)
        for flag, starts in zip(flags, tables.starts, strict=True)
    ]
    number = np.cumsum(stored, dtype=np.int32) - 1  # of each kept patch in storage order
    shifted = number.take(tables.shifted.take(np.flatnonzero(flags[SHIFTED])))
    regular_counts, shifted_counts = (count[count > 0] for count in counts)
    return Kept(tables, np.flatnonzero(stored), shifted, (regular_counts, shifted_counts))
