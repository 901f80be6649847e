"""Synthetic keep masks with the look of real ones: connected blobs that drift slowly in time."""

import numpy as np

from skipsr_jax.types import Bool, HostArray

SMOOTHING = (3, 5, 5)
"""Box filter over (time, rows, columns) in tokens, applied twice: blobs of some hundred pixels."""


def _smoothed(field: np.ndarray, width: int, axis: int) -> np.ndarray:
    """Running mean along an axis; the field is mirrored at its ends."""
    before, after = (width - 1) // 2, width // 2
    pad = [(0, 0)] * field.ndim
    pad[axis] = (before + 1, after)
    total = np.cumsum(np.pad(field, pad, mode="symmetric"), axis=axis)
    ahead = np.take(total, np.arange(width, total.shape[axis]), axis=axis)
    behind = np.take(total, np.arange(0, total.shape[axis] - width), axis=axis)
    return (ahead - behind) / width


def blob_mask(grid: tuple[int, int, int], skip: float, seed: int = 0) -> Bool[HostArray, "t r c"]:
    """A keep mask over ``grid`` = (time, rows, columns) tokens, of which ``skip`` (0..1) are False.

    Smoothed noise, cut at the quantile that skips that share, to the token.
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip is {skip}: it must be from 0 to below 1")
    field = np.random.default_rng(seed).standard_normal(grid)
    for _ in range(2):
        for axis, width in enumerate(SMOOTHING):
            if grid[axis] > 1:
                field = _smoothed(field, width, axis)
    keep = np.ones(field.size, bool)
    keep[np.argsort(field, axis=None, kind="stable")[: round(skip * field.size)]] = False
    return keep.reshape(grid)
