"""From a high-quality clip to its low-quality pair, and to the mask that Eq. 1 gives for it.

The paper's main setting: area downsampling by 4 (section 3), stored in 8 bits as a real file would
be. The mask compares the clip with U(D(clip)), D without that rounding. With real-world degradation
D is what was done to the clip: a skipped patch keeps its noise, so few patches may be skipped.
"""

import numpy as np

from skipsr_jax.data import realworld
from skipsr_jax.data.realworld import RealWorld
from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.resize import Method, area_down, resize
from skipsr_jax.tokens.criterion import TAU, frame_mse, needs_refinement
from skipsr_jax.types import Bool, Float, HostArray, UInt8

Degradation = Method | RealWorld
"""Plain downsampling by a method of ``resize``, or the two-round pipeline at the given levels."""


def low_quality(frames: UInt8[HostArray, "f h w 3"], scale: int) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller. Raises ValueError when a side is no multiple of it."""
    return np.rint(area_down(frames, scale)).astype(np.uint8)


def degraded(
    frames: UInt8[HostArray, "f h w 3"],
    scale: int,
    degradation: Degradation,
    rng: np.random.Generator,
) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller; ``rng`` is used by real-world degradation only.

    Bilinear and bicubic do not filter before they go down: they alias, as many a resizer does.
    Raises ValueError when a side is no multiple of ``scale``.
    """
    if isinstance(degradation, RealWorld):
        return realworld.apply(frames, scale, realworld.draw(degradation, rng), rng)
    if degradation == "area":
        return low_quality(frames, scale)
    _, height, width, _ = frames.shape
    if height % scale or width % scale:
        raise ValueError(f"{height} x {width} frames: crop them to multiples of {scale}")
    small = resize(frames.astype(np.float32), (height // scale, width // scale), degradation)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def oracle_error(
    frames: UInt8[HostArray, "f h w 3"],
    scale: int = 4,
    small: UInt8[HostArray, "f h2 w2 3"] | None = None,
) -> Float[HostArray, "t r c"]:
    """The left side of Eq. 1 for each patch: mean squared error, pixels in [0, 1].

    ``small`` is D(clip) where D is not area downsampling by ``scale``. f = 4k + 1 and h, w
    multiples of 16, else ValueError.
    """
    size = frames.shape[1:3]
    unit = np.float32(1 / 255)
    if (len(frames) - 1) % PATCH_FRAMES or size[0] % PATCH_PIXELS or size[1] % PATCH_PIXELS:
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
) -> Bool[HostArray, "t r c"]:
    """Which patches need refinement: True where ``oracle_error`` is above ``tau`` (keep)."""
    return needs_refinement(oracle_error(frames, scale, small), tau)
