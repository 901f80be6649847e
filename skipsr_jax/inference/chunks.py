"""Long videos in bounded memory: overlapping chunks, blended by a linear cross-fade.

Invariant: n frames in, n frames out, in order, whatever the chunk length; where two chunks agree
on a pixel exactly, the blended pixel is that pixel exactly.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jax import Array

from skipsr_jax.types import HostArray

DeviceFrame = tuple[Array | HostArray, HostArray]
"""Pixels (h, w, 3) in [0, 1] on the device, and keep mask (rows, columns), of one frame. Pixels
that an earlier run made come from the host."""


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


def cross_fade(
    chunks: Iterable[tuple[Iterable[DeviceFrame], bool]],
    overlap: int,
    blend: Callable[[Array, Array, np.float32], Array],
    tail: Iterable[DeviceFrame] = (),
    after_chunk: Callable[[Sequence[DeviceFrame]], None] = lambda tail: None,
) -> Iterator[DeviceFrame]:
    """The frames of consecutive ``overlapping`` chunks as one stream, blended where they overlap.

    Args:
      chunks: per chunk, its frames (taken as they come) and whether it is the last.
      overlap: frames that consecutive chunks share.
      blend: ``pixels.compose.blend``, compiled.
      tail: the last ``overlap`` frames of the chunk before these, where there was one.
      after_chunk: called after each chunk but the last with its last ``overlap`` frames, before
        anything of the next one is made.
    """
    tail = deque(tail)
    for frames, last in chunks:
        shared = len(tail)
        waiting: deque[DeviceFrame] = deque()
        for position, frame in enumerate(frames):
            if position < shared:
                before, after = tail.popleft(), frame
                weight = np.float32((position + 1) / (shared + 1))
                # A patch that was kept in either chunk counts as kept.
                yield blend(before[0], after[0], weight), before[1] | after[1]
                continue
            waiting.append(frame)
            if last or len(waiting) > overlap:
                yield waiting.popleft()
        tail = waiting
        if not last:
            after_chunk(tuple(tail))
    yield from tail
