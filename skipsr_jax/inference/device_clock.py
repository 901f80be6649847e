"""How long the device was busy with each stage, while the host goes on without waiting for it.

JAX returns from a call before the device has run it. Waiting for each result would time it, but
would leave the device idle until the host has the next call ready. Here a thread of its own waits,
in the order of the calls: a stage was busy from the moment when both its call had been made and the
device was free, until its result was ready.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax


class DeviceClock(contextlib.AbstractContextManager):
    """Adds up the busy seconds of stages. Leaving the ``with`` block waits for the last result.

    Args:
      add: called as ``add(stage, seconds, frames)``, from the clock's thread.
      now: the time in seconds.
    """

    def __init__(
        self,
        add: Callable[[str, float, float], None],
        now: Callable[[], float] = time.perf_counter,
    ):
        self._add, self._now = add, now
        self._results: queue.SimpleQueue[tuple[str, Any, float, float] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def watch(self, stage: str, result: Any, called: float, frames: float = 0.0) -> None:
        """Counts the call that makes ``result`` towards a stage.

        Args:
          stage: the name under which the seconds are added.
          result: arrays on the device, as the call returned them; they must not be donated later.
          called: the time just before the call.
          frames: what ``add`` is told beside the seconds.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="device clock")
            self._thread.start()
        self._results.put((stage, result, called, frames))

    def _watch(self) -> None:
        free_since = 0.0
        while (item := self._results.get()) is not None:
            stage, result, called, frames = item
            # An error of the computation is raised where its result is used, not here.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.block_until_ready(result)
            ready = self._now()
            self._add(stage, max(0.0, ready - max(free_since, called)), frames)
            free_since = ready

    def close(self) -> None:
        """Waits until all results are ready and counted, and ends the thread, if there is one."""
        if self._thread is not None:
            self._results.put(None)
            self._thread.join()
            self._thread = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
