"""Shot boundary detection: the hard cuts of a clip, from differences of consecutive frames.

Frames are compared as thumbnails of 16 x 16 mean colours, which fine motion hardly changes. A cut
is a difference that is large in itself and stands out from those around it, so that neither a fast
pan nor a shaking camera counts. Fades are not found. Invariant: more frames in front, without a cut
near their end, move the cuts by their number.
"""

from collections.abc import Iterable

import numpy as np

from skipsr_jax.media.resize import resize
from skipsr_jax.types import Float, HostArray, UInt8

_SIDE = 16  # cells of a thumbnail along each axis
_ENOUGH = 128  # pixels of the shorter side that are compared; the others are skipped
_LARGE = 14.0  # mean absolute difference of two thumbnails, of 255
_OUTSTANDING = 4.0  # times the median of the differences around
_AROUND = 5  # differences on each side


def thumbnail(frame: UInt8[HostArray, "h w 3"]) -> Float[HostArray, "h2 w2 3"]:
    """Mean colours of a grid of at most 16 x 16 cells, 0..255."""
    step = max(1, min(frame.shape[:2]) // _ENOUGH)
    pixels = frame[None, ::step, ::step].astype(np.float32)
    size = min(_SIDE, pixels.shape[1]), min(_SIDE, pixels.shape[2])
    return resize(pixels, size, "area")[0]


def find_cuts(frames: Iterable[UInt8[HostArray, "h w 3"]]) -> tuple[int, ...]:
    """Returns the indices of the frames that begin a new shot, rising; never 0.

    The frames, all of one size, are read one by one.
    """
    previous, differences = None, []
    for frame in frames:
        current = thumbnail(frame)
        if previous is not None:
            differences.append(float(np.abs(current - previous).mean()))
        previous = current
    cuts = []
    for i, difference in enumerate(differences):
        around = differences[max(0, i - _AROUND) : i] + differences[i + 1 : i + 1 + _AROUND]
        usual = float(np.median(around)) if around else 0.0
        if difference > _LARGE and difference > _OUTSTANDING * usual:
            cuts.append(i + 1)
    return tuple(cuts)
