"""Pictures to look at: truth, keep mask and result of a frame side by side, zoomed (Figure 6)."""

import numpy as np
from PIL import Image

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.types import Bool, HostArray, UInt8

ZOOM = 3
"""Times that the inset is enlarged, without interpolation."""
INSET = 0.42
"""Side of the inset in units of the frame's side."""
_GAP = 8  # pixels between the pictures
_LINE = 3  # pixels of the border of the inset and of what it shows
_COLOUR = np.array([255, 220, 0], np.uint8)


def zoomed_region(
    error: HostArray, keep: Bool[HostArray, "r q"], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The region that an inset shows: (top, left, height, width) in pixels.

    It is where the frame has most to refine: the window in which the error of plain upscaling in
    kept patches is largest.

    Args:
      error: Eq. 1's error of each patch, (r, q).
      keep: which patches are kept.
      size: (height, width) of the frame in pixels.
    """
    height, width = (max(4, int(INSET * side / ZOOM)) for side in size)
    rows, columns = (-(-side // PATCH_PIXELS) for side in (height, width))
    total = np.pad(np.cumsum(np.cumsum(error * keep, 0), 1), ((1, 0), (1, 0)))
    inside = (
        total[rows:, columns:] - total[:-rows, columns:]
        - total[rows:, :-columns] + total[:-rows, :-columns]
    )  # fmt: skip
    row, column = np.unravel_index(np.argmax(inside), inside.shape)
    top = min(int(row) * PATCH_PIXELS, size[0] - height)
    left = min(int(column) * PATCH_PIXELS, size[1] - width)
    return top, left, height, width


def _with_inset(
    frame: UInt8[HostArray, "h w 3"], region: tuple[int, int, int, int]
) -> UInt8[HostArray, "h w 3"]:
    """The frame with a line around the region, and the region enlarged at the bottom right."""
    top, left, height, width = region
    detail = frame[top : top + height, left : left + width]
    enlarged = np.asarray(
        Image.fromarray(detail).resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST)
    )
    drawn = frame.copy()
    _outline(drawn, top, left, height, width)
    bottom, right = drawn.shape[0] - _LINE, drawn.shape[1] - _LINE
    below, beside = bottom - enlarged.shape[0], right - enlarged.shape[1]
    drawn[below:bottom, beside:right] = enlarged
    _outline(drawn, below, beside, *enlarged.shape[:2])
    return drawn


def _outline(frame: HostArray, top: int, left: int, height: int, width: int) -> None:
    """Draws a line around a region, outside of it as far as the frame reaches."""
    above, before = max(top - _LINE, 0), max(left - _LINE, 0)
    below, behind = top + height + _LINE, left + width + _LINE
    frame[above:top, before:behind] = frame[top + height : below, before:behind] = _COLOUR
    frame[above:below, before:left] = frame[above:below, left + width : behind] = _COLOUR


def side_by_side(
    truth: UInt8[HostArray, "h w 3"],
    keep: Bool[HostArray, "r q"],
    result: UInt8[HostArray, "h w 3"],
    error: HostArray,
) -> UInt8[HostArray, "h w2 3"]:
    """Truth, truth under its mask, and result, each with an inset of one region, left to right.

    Args:
      truth, result: one frame.
      keep: which patches the transformer computed; skipped ones are tinted.
      error: Eq. 1's error of each patch, (r, q), which chooses the region.
    """
    region = zoomed_region(error, keep, truth.shape[:2])
    pictures = [_with_inset(frame, region) for frame in (truth, result)]
    gap = np.full((len(truth), _GAP, 3), 255, np.uint8)
    return np.concatenate([pictures[0], gap, mask_overlay(truth, keep), gap, pictures[1]], axis=1)
