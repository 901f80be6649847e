"""What a metric is to `compare`: a running score that takes a clip frame by frame.

A metric sees `Picture`s, which compute what several metrics need (float pixels, luma) once.
Definitions follow pyiqa's defaults where it has the metric: RGB frames in [0, 1], no border
cropped, a score of each frame, and the mean over frames.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from skipsr_jax.types import Float, HostArray

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in the Y of YIQ on the full range: what pyiqa calls the Y channel."""


class Undefined(ValueError):
    """A metric has no value for a clip; the message is the reason, without the clip's name."""


class Picture:
    """One frame, and what metrics compute from it.

    Args:
      codes: RGB (h, w, 3), uint8 or uint16 on the full scale of the dtype.
    """

    def __init__(self, codes: HostArray):
        self.codes = codes

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.codes.shape[:2]

    @functools.cached_property
    def rgb(self) -> Float[HostArray, "h w 3"]:
        """Pixels in [0, 1], float64."""
        return self.codes / np.iinfo(self.codes.dtype).max

    @functools.cached_property
    def luma(self) -> Float[HostArray, "h w"]:
        """The Y of YIQ in [0, 1], float64."""
        return self.rgb @ np.array(LUMA_WEIGHTS)

    @functools.cached_property
    def luma255(self) -> Float[HostArray, "h w"]:
        """The same in [0, 255]; of 8-bit frames rounded to whole numbers, as pyiqa does."""
        luma = 255 * self.luma
        return np.rint(luma) if self.codes.dtype == np.uint8 else luma


class Score(Protocol):
    """The running score of one clip."""

    def add(self, result: Picture, truth: Picture | None) -> None:
        """Takes the next frame. May raise Undefined."""

    def value(self) -> float:
        """The score of the frames so far. Raises Undefined where there is none."""

    def close(self) -> None:
        """Ends what `add` began, also after an error."""


class FrameMean:
    """The mean over frames of a function of each one. ``count``: the frames so far."""

    def __init__(self, function: Callable[[Picture, Picture | None], float]):
        self._function, self._total, self.count = function, 0.0, 0

    def add(self, result: Picture, truth: Picture | None) -> None:
        """Adds the frame's score."""
        self._total += self._function(result, truth)
        self.count += 1

    def value(self) -> float:
        """The mean."""
        if not self.count:
            raise Undefined("there is no frame")
        return self._total / self.count

    def close(self) -> None:
        """Does nothing."""
