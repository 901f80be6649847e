"""Runs work in threads: ``prefetch`` makes items early, ``Background`` makes calls late.

Invariant: the same items and calls in the same order, and the same error at the same item, as
without a thread.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

_POLL = 0.05
"""Seconds between two checks whether the thread has stopped."""


def prefetch(items: Iterable[Item], count: int) -> Generator[Item, None, None]:
    """``items``, made in a thread of its own, up to ``count`` before they are asked for.

    Close it (``contextlib.closing``) if it may be left early: then the thread ends after the item
    that it is at. Raises what making the items raises, after those made before.
    """
    made: queue.Queue[tuple[Item] | None] = queue.Queue(maxsize=count)
    left = threading.Event()

    def fill() -> None:
        try:
            for item in items:
                made.put((item,))
                if left.is_set():
                    return
        finally:
            made.put(None)

    with ThreadPoolExecutor(max_workers=1) as pool:
        thread = pool.submit(fill)
        try:
            while (item := made.get()) is not None:
                yield item[0]
            thread.result()
        finally:
            left.set()
            while not thread.done():
                with contextlib.suppress(queue.Empty):
                    made.get(timeout=_POLL)


class Background(contextlib.AbstractContextManager):
    """Makes calls one after the other in a thread of its own.

    Leaving the ``with`` block waits for the calls; after an error in the block it drops those that
    have not begun.

    Args:
      count: the most calls that wait; ``submit`` blocks while there are more.
    """

    def __init__(self, count: int):
        self._count = count
        self._calls: deque[Future] = deque()
        self._pool = ThreadPoolExecutor(max_workers=1)

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:
        """Asks for a call. Raises what an earlier call raised."""
        while self._calls and (self._calls[0].done() or len(self._calls) > self._count):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Waits for the calls that were asked for. Raises what one of them raised."""
        while self._calls:
            self._calls.popleft().result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for call in self._calls:
                    call.result()
        finally:
            self._pool.shutdown(cancel_futures=True)
