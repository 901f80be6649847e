"""The two reasons to stop before the last step: SIGTERM, and the time limit."""

import dataclasses
import signal
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from skipsr_jax.parallel.hosts import on_any_host


class Preemption:
    """Whether this process, or that of any other host, has received SIGTERM."""

    def __init__(self):
        self._here = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._here = True

    def reached(self) -> bool:
        """The same answer on every host."""
        return on_any_host(self._here)

    def close(self) -> None:
        """Restores the signal handler that there was before."""
        signal.signal(signal.SIGTERM, self._before)


@dataclasses.dataclass(frozen=True)
class Clock:
    """Seconds of training over all restarts, the first host's on every host."""

    before: float
    started: float

    def elapsed(self) -> float:
        """Seconds so far."""
        seconds = np.asarray(self.before + time.monotonic() - self.started)
        if jax.process_count() > 1:
            seconds = multihost_utils.broadcast_one_to_all(seconds)
        return float(seconds)
