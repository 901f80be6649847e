"""A picture of the mask: skipped patches tinted, the border of kept regions drawn."""

import numpy as np

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.types import Bool, Float, HostArray

_TINT = np.array([0.05, 0.25, 0.45], np.float32)
_TINT_SHARE = np.float32(0.55)
_BORDER = np.array([1.0, 0.8, 0.2], np.float32)


def mask_overlay(
    frame: Float[HostArray, "h w 3"], keep: Bool[HostArray, "r q"]
) -> Float[HostArray, "h w 3"]:
    """The frame (pixels in [0, 1]): skipped patches blue, a yellow line around kept ones."""
    height, width, _ = frame.shape
    kept = np.repeat(np.repeat(keep, PATCH_PIXELS, 0), PATCH_PIXELS, 1)[:height, :width]
    shown = np.where(kept[..., None], frame, frame + _TINT_SHARE * (_TINT - frame))
    border = np.zeros_like(kept)
    border[1:] |= kept[1:] != kept[:-1]
    border[:, 1:] |= kept[:, 1:] != kept[:, :-1]
    shown[border] = _BORDER
    return shown.astype(np.float32)
