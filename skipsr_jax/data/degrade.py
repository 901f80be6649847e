"""From a high-quality clip to its low-quality pair, and to the mask that Eq. 1 gives for it.

The paper's main setting: area downsampling by 4 (section 3), stored in 8 bits as a real file would
be. The mask compares the clip with U(D(clip)), D without that rounding.
"""

import numpy as np

from skipsr_jax.data.resize import area_down, resize
from skipsr_jax.tokens.criterion import TAU, needs_refinement, patch_mse
from skipsr_jax.types import Bool, HostArray, UInt8


def low_quality(frames: UInt8[HostArray, "f h w 3"], scale: int) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller. Raises ValueError when a side is no multiple of it."""
    return np.rint(area_down(frames, scale)).astype(np.uint8)


def oracle_mask(
    frames: UInt8[HostArray, "f h w 3"], scale: int = 4, tau: float = TAU
) -> Bool[HostArray, "t r c"]:
    """Which patches need refinement: True where Eq. 1 does not hold (keep).

    f = 4k + 1 and h, w multiples of 16, else ValueError.
    """
    size = frames.shape[1:3]
    unit = np.float32(1 / 255)
    # Five frames at a time stay in cache; the first of a later group only completes 4k + 1.
    groups = [frames[:1], *(frames[i - 1 : i + 4] for i in range(1, len(frames) - 3, 4))]
    if (len(frames) - 1) % 4:
        raise ValueError(f"{len(frames)} frames are not 4k + 1: cut the clip")
    errors = []
    for group in groups:
        pixels = group * unit
        errors.append(patch_mse(pixels, resize(area_down(pixels, scale), size, "bilinear"))[-1])
    return needs_refinement(np.stack(errors), tau)
