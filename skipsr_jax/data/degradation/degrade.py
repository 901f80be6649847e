"""From a high-quality clip to its low-quality pair.

The paper's main setting: area downsampling by 4 (section 3), stored in 8 bits as a real file would
be.
"""

import numpy as np

from skipsr_jax.data.degradation import realworld
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.media.resize import Method, area_down, resize
from skipsr_jax.types import HostArray, UInt8

Degradation = Method | RealWorld
"""Plain downsampling by a method of ``resize``, or the two-round pipeline at the given levels."""


def low_quality(frames: UInt8[HostArray, "f h w 3"], scale: int) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller by area averaging, rounded to 8 bits.

    Raises ValueError when a side is no multiple of ``scale``.
    """
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
