"""Profiles a few steps, for TensorBoard's profiler or Perfetto."""

import logging
import os
from typing import Any

import jax

from skipsr_jax.errors import UserError


class ProfileWindow:
    """Traces optimizer steps ``first`` to ``stop`` - 1, counted from 0, into ``folder``.

    Args:
      steps: "first:stop", or "" for no trace.
      folder: made when the trace is written.

    Raises:
      UserError: ``steps`` are not two rising numbers.
    """

    def __init__(self, steps: str, folder: str | os.PathLike):
        self._folder, self._tracing = str(folder), False
        self._first = self._stop = -1
        if not steps:
            return
        first, colon, stop = steps.partition(":")
        if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
            raise UserError(
                f"--profile_steps is {steps!r}: it must be first:stop, two numbers of steps with "
                "first below stop, e.g. 10:15"
            )
        self._first, self._stop = int(first), int(stop)

    def before(self, step: int) -> None:
        """Call it before each step."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, result: Any) -> None:
        """Call it after each step, with arrays that the step computes."""
        if self._tracing and step + 1 >= self._stop:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends and writes a trace that is still running."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            logging.info("profile of steps %d to %d in %s", self._first, self._stop, self._folder)
