"""The window partition of a token grid: the 720p rule of SeedVR (arXiv 2501.01320, section 3).

A canvas of 45 x 80 tokens (720p) is cut into 3 x 3 windows, its first 30 latent frames into 4.
Other sizes are scaled to the area of that canvas first, so a window keeps its shape relative to the
frame and its area in tokens, and larger frames get more windows. Layers alternate between the
regular partition and one shifted by half a window.

Invariant: per axis the cuts are increasing, start at 0 and end at the size of the axis, so the
windows are a partition of the grid.
"""

import math

import numpy as np

REGULAR, SHIFTED = 0, 1
"""The two partitions, as indices along axis ``y``."""

Grid = tuple[int, int, int]
"""Tokens along (time, height, width)."""

WINDOWS_ON_CANVAS = (4, 3, 3)
CANVAS_FRAMES = 30
CANVAS_AREA = 45 * 80


def window_size(grid: Grid) -> Grid:
    """The size in tokens of an uncut window on ``grid``. Rounding is half to even, in float64."""
    frames, height, width = grid
    if min(grid) < 1:
        raise ValueError(f"a token grid needs at least one token along each axis, got {grid}")
    scale = math.sqrt(CANVAS_AREA / (height * width))
    return (
        math.ceil(min(frames, CANVAS_FRAMES) / WINDOWS_ON_CANVAS[0]),
        math.ceil(round(height * scale) / WINDOWS_ON_CANVAS[1]),
        math.ceil(round(width * scale) / WINDOWS_ON_CANVAS[2]),
    )


def axis_cuts(length: int, size: int, shifted: bool) -> np.ndarray:
    """Where windows begin along one axis, and at last its length: [0, ..., length].

    Shifted cuts are at the whole part of (k + 1/2) * size. An axis that fits one window is not cut.
    """
    if not shifted or size >= length:
        inner = np.arange(size, length, size)
    else:
        inner = ((np.arange(math.ceil(length / size) + 1) + 0.5) * size).astype(np.int64)
        inner = inner[(inner > 0) & (inner < length)]
    return np.concatenate([[0], inner, [length]])


def window_cuts(grid: Grid, shifted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cuts along time, height and width."""
    sizes = window_size(grid)
    cuts = [axis_cuts(n, size, shifted) for n, size in zip(grid, sizes, strict=True)]
    return cuts[0], cuts[1], cuts[2]


def window_boxes(grid: Grid, shifted: bool) -> np.ndarray:
    """Every window as (t0, t1, h0, h1, w0, w1), time fastest, width slowest: the official order."""
    t, h, w = window_cuts(grid, shifted)
    return np.array(
        [
            (t[k], t[k + 1], h[j], h[j + 1], w[i], w[i + 1])
            for i in range(len(w) - 1)
            for j in range(len(h) - 1)
            for k in range(len(t) - 1)
        ]
    )
