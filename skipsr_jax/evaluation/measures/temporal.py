"""Metrics of time: how the change from frame to frame differs from the truth's change.

Neither compensates motion: both compare result and truth at one place, where the truth has made the
same motion. A result that is wrong in the same way in every frame of a still scene scores well; one
that flickers does not.
"""

import numpy as np

from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.metrics import psnr_of_mse

_PSNR_EPSILON = 1e-8  # as of PSNR, see pixel.py


class _Differences:
    """The mean over pairs of neighbouring frames of ``self.of`` the error of their difference."""

    def __init__(self):
        self._previous: np.ndarray | None = None
        self._total, self._count = 0.0, 0

    def of(self, error: np.ndarray) -> float:
        raise NotImplementedError

    def add(self, result: Picture, truth: Picture | None) -> None:
        """Takes the next frame."""
        error = result.rgb - truth.rgb  # (r_t - r_s) - (g_t - g_s) is the change of this
        if self._previous is not None:
            self._total += self.of(error - self._previous)
            self._count += 1
        self._previous = error

    def value(self) -> float:
        """The mean. Raises Undefined for fewer than two frames."""
        if not self._count:
            raise Undefined("a metric of time needs two frames")
        return self._total / self._count

    def close(self) -> None:
        """Does nothing."""


class Flicker(_Differences):
    """Mean absolute error of frame differences, in codes of 0..255; 0: it changes as the truth."""

    def of(self, error: np.ndarray) -> float:
        """The mean absolute error of one difference."""
        return 255 * float(np.abs(error).mean())


class TemporalPsnr(_Differences):
    """PSNR in dB of frame differences against the truth's, mean over neighbouring frames."""

    def of(self, error: np.ndarray) -> float:
        """The PSNR of one difference."""
        return float(psnr_of_mse(np.mean(error**2) + _PSNR_EPSILON))
