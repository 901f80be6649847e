"""Long videos in bounded memory: overlapping chunks, blended by a linear cross-fade.

Invariant: n frames in, n frames out, in order, whatever the chunk length; where two chunks agree
on a pixel exactly, the blended pixel is that pixel exactly.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from skipsr_jax.types import Bool, Float, HostArray

OutputFrame = tuple[HostArray, HostArray]
"""Pixels (h, w, 3) in [0, 1] and keep mask (rows, columns) of one frame."""


def overlapping(
    frames: Iterable[HostArray], length: int, overlap: int
) -> Iterator[tuple[HostArray, bool]]:
    """Stacks of ``length`` frames (the last may be shorter), each with whether it is the last.

    Each begins with the last ``overlap`` frames of the one before, and holds at least one more.
    """
    held: list[HostArray] = []
    for frame in frames:
        if len(held) == length:  # there is a further frame: this chunk is not the last
            yield np.stack(held), False
            held = held[length - overlap :]
        held.append(frame)
    if held:
        yield np.stack(held), True


def _blend(
    old: OutputFrame, new: OutputFrame, weight: float
) -> tuple[Float[HostArray, "h w c"], Bool[HostArray, "r q"]]:
    """``old`` moved towards ``new`` by ``weight`` (0..1); a patch kept in either counts as kept."""
    return old[0] + np.float32(weight) * (new[0] - old[0]), old[1] | new[1]


def cross_fade(
    chunks: Iterable[tuple[Iterable[OutputFrame], bool]], overlap: int
) -> Iterator[OutputFrame]:
    """The frames of consecutive ``overlapping`` chunks as one stream, blended where they overlap.

    Args:
      chunks: per chunk, its frames (taken as they come) and whether it is the last.
      overlap: frames that consecutive chunks share.
    """
    tail: deque[OutputFrame] = deque()
    for frames, last in chunks:
        shared = len(tail)
        waiting: deque[OutputFrame] = deque()
        for position, frame in enumerate(frames):
            if position < shared:
                yield _blend(tail.popleft(), frame, (position + 1) / (shared + 1))
                continue
            waiting.append(frame)
            if last or len(waiting) > overlap:
                yield waiting.popleft()
        tail = waiting
    yield from tail
