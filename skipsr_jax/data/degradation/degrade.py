"""From a high-quality clip to its low-quality pair.

The paper's main setting: area downsampling by 4 (section 3), stored in 8 bits as a real file would
be. A ``Mixture`` has several kinds of pairs, so that a model learns to leave clean input clean and
to clean what is compressed or noisy.
"""

import dataclasses

import numpy as np

from skipsr_jax.data.degradation import realworld
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.media.resize import Method, area_down, resize
from skipsr_jax.types import HostArray, UInt8

Kind = Method | RealWorld
"""Plain downsampling by a method of ``resize``, or the two-round pipeline at the given levels."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Kinds of degradation, one of which is drawn for each sample.

    Attributes:
      kinds: what may be drawn.
      weights: relative probabilities.
    """

    kinds: tuple[Kind, ...]
    weights: tuple[float, ...]


Degradation = Kind | Mixture


def drawn_kind(degradation: Degradation, rng: np.random.Generator) -> Kind:
    """The kind of one sample; ``rng`` is used by a mixture only."""
    if not isinstance(degradation, Mixture):
        return degradation
    weights = np.array(degradation.weights)
    return degradation.kinds[int(rng.choice(len(weights), p=weights / weights.sum()))]


def low_size(size: tuple[int, int], scale: int | float) -> tuple[int, int]:
    """The size of the low-quality frames for high-quality ones of ``size`` = (height, width).

    ``scale``: an int divides both sides; with a float they are rounded. Raises ValueError when a
    side is no multiple of an int, or when ``scale`` is below 1.
    """
    if scale < 1 or (isinstance(scale, int) and any(side % scale for side in size)):
        raise ValueError(f"{size[0]} x {size[1]} frames: crop them to multiples of {scale}")
    height, width = (max(1, round(side / scale)) for side in size)
    return height, width


def low_quality(frames: UInt8[HostArray, "f h w 3"], scale: int) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller by area averaging, rounded to 8 bits.

    Raises ValueError when a side is no multiple of ``scale``.
    """
    return np.rint(area_down(frames, scale)).astype(np.uint8)


def degraded(
    frames: UInt8[HostArray, "f h w 3"],
    scale: int | float,
    degradation: Degradation,
    rng: np.random.Generator,
) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller; ``rng`` is used by mixtures and real-world degradation.

    Bilinear and bicubic do not filter before they go down: they alias, as many a resizer does.
    ``scale`` and errors: as of ``low_size``.
    """
    kind = drawn_kind(degradation, rng)
    size = low_size(frames.shape[1:3], scale)
    if isinstance(kind, RealWorld):
        return realworld.apply(frames, size, realworld.draw(kind, rng), rng)
    if kind == "area" and isinstance(scale, int):
        return low_quality(frames, scale)
    small = resize(frames.astype(np.float32), size, kind)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)
