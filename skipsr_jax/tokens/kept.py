"""The kept patches of one sample, in the order in which they are stored and window by window.

What does not depend on the mask is looked up in tables that are made once for each grid.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from skipsr_jax.tokens.windows import REGULAR, SHIFTED, Grid, window_cuts
from skipsr_jax.types import Bool, HostArray


def _axis_index(cuts: np.ndarray) -> np.ndarray:
    """For each place along an axis, the number of its window."""
    return np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a grid says of its patches, whichever of them are kept, in the order in which they would
    be stored: window by window of the regular partition. Memory is then read from front to back.

    Indices are of the kind of integers that numpy takes by without a cast.

    Attributes:
      patch (p,): the patches in that order.
      shifted (p,): places in that order, window by window of the shifted partition.
      starts: for each partition, where its windows begin among places so ordered.
      position, extent (2, p, 3): as in ``plan.TokenPlan``.
    """

    patch: np.ndarray
    shifted: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    position: np.ndarray
    extent: np.ndarray


@functools.lru_cache(maxsize=16)
def geometry_of(grid: Grid) -> Geometry:
    """Made once for each grid."""
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
    return Geometry(
        patch,
        regrouped,
        (_steps(regular), _steps(shifted[regrouped])),
        np.stack([position[patch] for position in positions]).astype(np.int16),
        np.stack([extent[patch] for extent in extents]).astype(np.int16),
    )


def _steps(rising: np.ndarray) -> np.ndarray:
    """Where each new number of a rising list begins."""
    return np.flatnonzero(np.diff(rising, prepend=-1))


class Kept(NamedTuple):
    """The kept patches of one sample.

    Attributes:
      geometry: of its grid.
      place (n,): where they would be stored if all patches were, rising.
      shifted (n,): stored tokens window by window of the shifted partition.
      counts: for each partition, how many each window has, windows without left out.
    """

    geometry: Geometry
    place: np.ndarray
    shifted: np.ndarray
    counts: tuple[np.ndarray, np.ndarray]


def kept_of(mask: Bool[HostArray, "_ _ _"]) -> Kept:
    """Of a sample's keep mask. take: a little faster than brackets."""
    geometry = geometry_of(mask.shape)
    stored = mask.reshape(-1).take(geometry.patch)
    flags = stored, stored.take(geometry.shifted)
    counts = [
        np.add.reduceat(flag, starts, dtype=np.int32)
        for flag, starts in zip(flags, geometry.starts, strict=True)
    ]
    token_of = np.cumsum(stored, dtype=np.int32) - 1
    shifted = token_of.take(geometry.shifted.take(np.flatnonzero(flags[SHIFTED])))
    regular_counts, shifted_counts = (count[count > 0] for count in counts)
    return Kept(geometry, np.flatnonzero(stored), shifted, (regular_counts, shifted_counts))
