"""Draws the keep mask over a frame: skipped patches tinted, the border of kept regions drawn."""

import numpy as np

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.types import Bool, HostArray

_TINT = np.array([0.05, 0.25, 0.45], np.float32)
_TINT_WEIGHT = np.float32(0.55)
_BORDER = np.array([1.0, 0.8, 0.2], np.float32)


def mask_overlay(frame: HostArray, keep: Bool[HostArray, "r q"]) -> HostArray:
    """The frame with skipped patches blue and a yellow line around kept ones.

    Args:
      frame: (h, w, 3), float32 in [0, 1], or uint8 or uint16 on its full scale; the result has the
        same dtype.
      keep: its mask, true where a patch of 16 x 16 pixels was computed. It may reach beyond the
        frame at the bottom and the right.
    """
    integer = np.issubdtype(frame.dtype, np.integer)
    scale = np.float32(np.iinfo(frame.dtype).max if integer else 1)
    height, width, _ = frame.shape
    kept = np.repeat(np.repeat(keep, PATCH_PIXELS, 0), PATCH_PIXELS, 1)[:height, :width]
    tinted = frame + _TINT_WEIGHT * (scale * _TINT - frame)
    line = scale * _BORDER
    if integer:
        tinted, line = np.rint(tinted), np.rint(line)
    drawn = np.where(kept[..., None], frame, tinted.astype(frame.dtype))
    border = np.zeros_like(kept)
    border[1:] |= kept[1:] != kept[:-1]
    border[:, 1:] |= kept[:, 1:] != kept[:, :-1]
    drawn[border] = line.astype(frame.dtype)
    return drawn
