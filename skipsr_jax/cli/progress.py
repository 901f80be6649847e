"""The bar on a terminal that says how far a clip is, how fast it goes and what is waited for."""

import contextlib
import os
import sys
import threading
import time
from io import TextIOBase
from types import TracebackType

from tqdm import tqdm

from skipsr_jax.inference.program_cache import Counts

_TICK = 0.5
"""Seconds between two drawings: the bar moves also while nothing is finished."""
_LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
_WAITING = "{desc} {elapsed}"


class ProgressBar(contextlib.AbstractContextManager):
    """The ``progress`` of a ``Report``, drawn as long as the ``with`` block lasts.

    Args:
      title: of the bar.
      frames: of the clip.
      counts: of the programs that it waits for.
      stream: a terminal; nothing is drawn on anything else. None: stderr.
    """

    def __init__(self, title: str, frames: int, counts: Counts, stream: TextIOBase | None = None):
        self._counts, self._stage = counts, ""
        self._began, self._waited = time.perf_counter(), counts.waited_seconds
        self._bar = _bar(stream, desc=title, total=frames, bar_format=_LAYOUT)
        self._ticks = _Ticks(self._bar, self.text)

    def __call__(self, stage: str, frames: float) -> None:
        """Notes what is done now, and how many frames' worth of work was finished."""
        self._stage = stage
        with self._bar.get_lock():
            self._bar.n += frames

    def text(self) -> str:
        """What stands behind the bar: the stage, frames per second and the time left."""
        parts = ["compiling" if self._counts.waiting else self._stage]
        done, frames = min(self._bar.n, self._bar.total), self._bar.total
        passed = time.perf_counter() - self._began
        working = passed - (self._counts.waited_seconds - self._waited)
        if done > 0 and working > 0:
            rate = done / working
            left = tqdm.format_interval((frames - done) / rate)
            parts += [f"{rate:.3g} frames/s", f"{left} left"]
        return ", ".join(part for part in parts if part)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ticks.stop()
        self._bar.close()


@contextlib.contextmanager
def waiting(title: str, stream: TextIOBase | None = None):
    """Shows what is waited for, and for how long, while the block lasts."""
    bar = _bar(stream, desc=title, bar_format=_WAITING, leave=False)
    ticks = _Ticks(bar, lambda: "")
    try:
        yield
    finally:
        ticks.stop()
        bar.close()


class _Ticks:
    """Draws a bar again and again, with the text behind it, in a thread."""

    def __init__(self, bar: tqdm, text):
        self._bar, self._text = bar, text
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        if not bar.disable:
            self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(_TICK):
            self._draw()

    def _draw(self) -> None:
        self._bar.set_postfix_str(self._text(), refresh=True)

    def stop(self) -> None:
        """Ends the thread and draws the bar for the last time."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            self._draw()


def _bar(stream: TextIOBase | None, **options) -> tqdm:
    stream = sys.stderr if stream is None else stream
    try:
        sized = all(os.get_terminal_size(stream.fileno()))
    except OSError:
        sized = False
    # A terminal in a container may have 0 columns and rows, where tqdm draws nothing.
    size = {"dynamic_ncols": True} if sized else {"ncols": 80, "nrows": 24}
    return tqdm(file=stream, disable=not stream.isatty(), **size, **options)
