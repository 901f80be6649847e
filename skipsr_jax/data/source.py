"""One training clip: where it is, how long, how large, and where its scenes change.

Invariant: an interval that ``intervals`` offers lies within one shot, as far as cuts are known.
"""

import dataclasses
import itertools
from typing import Literal

Kind = Literal["video", "image", "frames"]


@dataclasses.dataclass(frozen=True)
class Source:
    """One clip on disk.

    Attributes:
      path: the file, the folder of frames, or the built dataset that holds it.
      kind: what it is; ``frames`` is a folder of numbered pictures.
      frames: number of frames, 1 for a picture.
      height, width: in pixels.
      record: number in the built dataset; None for a file or folder of its own.
      cuts: first frames of all shots but the first, rising; None where they are not known.
    """

    path: str
    kind: Kind
    frames: int
    height: int
    width: int
    record: int | None = None
    cuts: tuple[int, ...] | None = None

    @property
    def shots(self) -> list[tuple[int, int]]:
        """(first frame, frame after the last) of each shot; one shot when cuts are not known."""
        edges = [0, *(self.cuts or ()), self.frames]
        return list(itertools.pairwise(edges))

    @property
    def longest(self) -> int:
        """Frames of the longest shot."""
        return max(stop - start for start, stop in self.shots)

    def intervals(self, count: int) -> list[tuple[int, int]]:
        """(first start, number of starts) of the intervals of ``count`` frames in each shot."""
        return [(a, b - a - count + 1) for a, b in self.shots if b - a >= count]
