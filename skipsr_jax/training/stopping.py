"""The two reasons to stop before the last step: SIGTERM, and the time limit."""

import contextlib
import dataclasses
import signal
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from skipsr_jax import signals
from skipsr_jax.parallel.hosts import on_any_host


class Preemption:
    """Whether this process, or that of any other host, has received SIGTERM or SIGHUP.

    While there is nothing to save yet, which ``has_work`` says, a process that trains alone is not
    made to wait for its first batch or step: `signals.Stopped` is raised in the main thread, and
    the process ends, with status 0, where that does not come to it in time. Ctrl-C always raises.
    """

    def __init__(self, program: str = "train"):
        self._program, self._here, self.has_work = program, False, False
        self._timer: threading.Timer | None = None
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(signals.handled(self._note, self._note_at_once))

    def _leaves(self) -> bool:
        return not self.has_work and jax.process_count() == 1

    def _note(self, number: int) -> None:
        if number == signal.SIGINT or (self._leaves() and not self._here):
            self._here = True
            raise signals.Stopped(number)
        self._here = True

    def _note_at_once(self, number: int) -> None:
        if number != signal.SIGINT and self._leaves() and self._timer is None:
            ending = (self._program, number, signals.status_of_training(number))
            self._timer = threading.Timer(signals.GRACE_SECONDS, signals.end, ending)
            self._timer.daemon = True
            self._timer.start()

    def reached(self) -> bool:
        """The same answer on every host."""
        return on_any_host(self._here)

    def close(self) -> None:
        """Restores the signal handlers that there were before."""
        self._stack.close()
        if self._timer is not None:
            self._timer.cancel()


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
