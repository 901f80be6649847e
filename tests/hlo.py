"""The collectives of a compiled program, read from its text."""

import re
from typing import NamedTuple

import numpy as np

_LINE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-gather|all-to-all|all-reduce|reduce-scatter|"
    r"collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"[a-z]+[0-9]*\[([0-9,]*)\]")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


class Collective(NamedTuple):
    """``kind`` as in HLO; ``shapes`` of its results, on one device; ``groups`` of device numbers
    that exchange something."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...] = ()

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


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _mesh_groups(sizes: str, names: str) -> tuple[tuple[int, ...], ...]:
    """Groups along axes of a mesh, or parts of them: 'name':(before)size."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    parts: list[int] = []  # sizes of the axes, with those that are divided cut up
    chosen: list[int] = []
    along = {name: rest for name, *rest in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", names)}
    for name, size in sizes.items():
        before, part = (int(number or 0) for number in along.get(name, ("1", "1")))
        before, part = (before, part) if part else (1, size)
        parts += [before, part, size // before // part]
        if name in along:
            chosen.append(len(parts) - 2)
    devices = np.moveaxis(np.arange(np.prod(parts)).reshape(parts), chosen, range(-len(chosen), 0))
    group = int(np.prod([parts[axis] for axis in chosen]))
    return tuple(map(tuple, devices.reshape(-1, group).tolist()))


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    if mesh := _MESH.search(line):
        return _mesh_groups(mesh[1], mesh[2])
    if listed := _LISTED.search(line) or _PAIRS.search(line):
        return tuple(tuple(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    counted = _COUNTED.search(line)
    if counted is None:
        return ()
    sizes = _numbers(counted[3])
    devices = np.arange(np.prod(sizes)).reshape(sizes)
    devices = devices.transpose(_numbers(counted[4])) if counted[4] else devices
    return tuple(map(tuple, devices.reshape(int(counted[1]), int(counted[2])).tolist()))


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
            found.append(Collective(match["kind"], shapes, _groups(line)))
    return found
