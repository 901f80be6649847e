"""Refuses results that are not finite, before a frame of them is written.

The device says of each slice whether all its numbers are finite, in the program that composites it.
The answer is one byte, whose download begins at once. It is looked at when a frame that depends on
it has been downloaded, so nobody waits for it. Invariant: no frame leaves the pipeline before
the answers of all slices that it is made of.
"""

from collections import deque

import numpy as np
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.types import Bool, DType, HostArray


class FiniteCheck:
    """The answers of a clip's slices that have not been looked at.

    Args:
      source: the checkpoint of the model that makes the results, for the message.
      dtype: of its computation.

    Attributes:
      asked: how many slices there were.
    """

    def __init__(self, source: str, dtype: DType):
        self.asked = 0
        self._message = _message("frames", source, dtype)
        self._answers: deque[Bool[Array, ""]] = deque()

    def ask(self, finite: Bool[Array, ""]) -> None:
        """Notes whether the next slice is finite, a boolean on the device."""
        finite.copy_to_host_async()
        self._answers.append(finite)
        self.asked += 1

    def require(self, slices: int) -> None:
        """Raises UserError unless the first ``slices`` slices are finite. Waits for them."""
        while self.asked - len(self._answers) < slices:
            if not self._answers.popleft():
                raise UserError(self._message)


def check_logits(logits: HostArray, source: str, dtype: DType) -> None:
    """Raises UserError unless the logits of a mask predictor are finite. Else as `FiniteCheck`."""
    if not np.isfinite(logits).all():
        raise UserError(_message("logits of the mask predictor", source, dtype))


def _message(what: str, source: str, dtype: DType) -> str:
    return (
        f"{source}: the {what} are not finite (NaN or infinity): its weights are damaged or were "
        f"not finite when they were saved, or numbers exceed {np.dtype(dtype)}, where "
        "config.dtype=float32 helps"
    )
