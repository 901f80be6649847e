"""Work in the background: reading the next frames, or making them while earlier ones are written.

Invariant: the same items in the same order, and the same error at the same place, as without.
"""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_LOOK = 0.05
"""Seconds between two looks whether the thread has stopped."""


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
                    made.get(timeout=_LOOK)
