"""What a run needs to go on with a clip between two chunks, as if it had never stopped.

That is the number of chunks that are done, the last frames of the last of them, with which the next
one is cross-faded, and what the choice of programs remembers. Noise depends on the number of the
chunk. Invariant: a run that goes on from a boundary makes the frames behind it bit for bit as the
run that came to it, on the same device with the same programs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skipsr_jax.inference.chunks import DeviceFrame
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A place between two chunks, or before the first.

    Attributes:
      chunks: how many are done.
      tail: the last frames of the chunk before, as many as chunks overlap; pixels (h, w, 3) in
        [0, 1] with the keep mask of each.
      choices: ``Programs.choice_state``; None before the first chunk.
      counts: ``Report.counts``; None before the first chunk.
    """

    chunks: int = 0
    tail: Sequence[DeviceFrame] = ()
    choices: Mapping[str, Any] | None = None
    counts: Mapping[str, Any] | None = None

    def on_host(self) -> "Boundary":
        """The same with pixels on the host; waits until they are computed."""
        tail = [(np.asarray(pixels), keep) for pixels, keep in self.tail]
        return dataclasses.replace(self, tail=tail)


class Boundaries:
    """The boundaries of one run over a clip.

    Args:
      first: where it begins.
      every: after how many chunks a boundary is kept; 0: never.
    """

    def __init__(self, first: Boundary = Boundary(), every: int = 0):
        self.first, self._every = first, every
        self._kept: dict[int, Boundary] = {}
        self._chunks = first.chunks

    def begin(self, programs: Programs, report: Report) -> None:
        """Brings the choices and the report to where the clip goes on."""
        self._programs, self._report = programs, report
        if self.first.choices is not None:
            programs.restore_choices(self.first.choices)
        if self.first.counts is not None:
            report.go_on_from(self.first.counts)

    def after_chunk(self, tail: Sequence[DeviceFrame]) -> None:
        """Keeps the boundary behind a chunk, if it is one of those that are kept."""
        self._chunks += 1
        if self._every and self._chunks % self._every == 0:
            choices, counts = self._programs.choice_state(), self._report.counts()
            self._kept[self._chunks] = Boundary(self._chunks, tail, choices, counts)

    def take(self, chunks: int) -> Boundary | None:
        """The boundary behind so many chunks; None where the last one ends there.

        The frame behind it must have been made: of the next chunk, or the rest of the last one.
        """
        return self._kept.pop(chunks, None)
