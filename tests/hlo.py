"""The collectives of a compiled program, read from its text."""

import re
from typing import NamedTuple

_LINE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-gather|all-to-all|all-reduce|reduce-scatter|"
    r"collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"[a-z]+[0-9]*\[([0-9,]*)\]")


class Collective(NamedTuple):
    """``kind`` as in HLO; ``shapes`` of its results, on one device."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def elements(self) -> int:
        """Of the largest result."""
        sizes = []
        for shape in self.shapes:
            size = 1
            for side in shape:
                size *= side
            sizes.append(size)
        return max(sizes)


def collectives(compiled) -> list[Collective]:
    """All of them, in the program's order; those in a loop's body count once."""
    found = []
    for line in compiled.as_text().splitlines():
        match = _LINE.search(line)
        if match:
            shapes = tuple(
                tuple(int(side) for side in sides.split(",") if side)
                for sides in _SHAPE.findall(match["result"])
            )
            found.append(Collective(match["kind"], shapes))
    return found
