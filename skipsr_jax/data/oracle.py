"""The oracle mask: Eq. 1 of the paper for a clip whose high-quality version is known.

The left side of Eq. 1 compares the clip with U(D(clip)): D is area downsampling, without the
rounding to 8 bits that a file adds, and U bilinear upsampling. With real-world degradation D is
what was done to the clip: a skipped patch keeps its noise, so few patches may be skipped.
"""

import numpy as np

from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS, is_clip_length, padded_size
from skipsr_jax.media.resize import area_down, resize
from skipsr_jax.tokens.criterion import TAU, frame_mse, needs_refinement
from skipsr_jax.types import Bool, Float, HostArray, UInt8


def oracle_error(
    frames: UInt8[HostArray, "f h w 3"],
    scale: int = 4,
    small: UInt8[HostArray, "f h2 w2 3"] | Float[HostArray, "f h2 w2 3"] | None = None,
) -> Float[HostArray, "t r q"]:
    """The left side of Eq. 1 for each patch: mean squared error, pixels in [0, 1].

    ``small`` is D(clip), 0..255, where D is not area downsampling by ``scale``. f = 4k + 1 and h, w
    multiples of 16, else ValueError.
    """
    size = frames.shape[1:3]
    unit = np.float32(1 / 255)
    if not is_clip_length(len(frames)) or size != padded_size(*size):
        raise ValueError(
            f"{len(frames)} frames of {size[0]} x {size[1]} are not 4k + 1 frames in multiples of "
            f"{PATCH_PIXELS} pixels: cut the clip"
        )
    errors = []
    # The frames of one patch at a time stay in cache.
    starts = range(1, len(frames), PATCH_FRAMES)
    for group in (slice(0, 1), *(slice(start, start + PATCH_FRAMES) for start in starts)):
        pixels = frames[group] * unit
        below = area_down(pixels, scale) if small is None else small[group] * unit
        rebuilt = resize(below, size, "bilinear")
        errors.append(frame_mse(pixels, rebuilt, PATCH_PIXELS).mean(axis=0))
    return np.stack(errors)


def oracle_mask(
    frames: UInt8[HostArray, "f h w 3"],
    scale: int = 4,
    tau: float = TAU,
    small: UInt8[HostArray, "f h2 w2 3"] | None = None,
) -> Bool[HostArray, "t r q"]:
    """Which patches need refinement: True where ``oracle_error`` is above ``tau`` (keep)."""
    return needs_refinement(oracle_error(frames, scale, small), tau)
