"""Reads from optimised HLO the bytes that a program for TPU moves between chips and to memory.

Every computation is followed from the entry. The body of a loop counts as often as the loop's
condition says (``i < constant``); a loop whose number of trips depends on data counts once and is
named. The compiler spreads an asynchronous collective over several fusions, which compute
meanwhile: it counts where it starts. An asynchronous collective is overlapped if anything is
computed between its start and its end.

Memory traffic is what every operation reads and writes, once each. Arrays in the chip's fast memory
(``S(1)`` in a layout) do not count. Where a fusion slices a stack, the slice alone counts.

Invariant: bytes are those of one chip in one run.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"(?<=[\s)}])([a-z][a-z\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_PLACED = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_PARAMETER = re.compile(r" parameter\((\d+)\)")
_STARTED, _DONE, _CONTINUED = (
    "AsyncCollectiveStart",
    "AsyncCollectiveDone",
    "async_collective_fusion",
)
_NO_TRAFFIC = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "while",
    "conditional", "call", "opt-barrier", "partition-id", "replica-id", "iota",
}  # fmt: skip
_SLICES = (" slice(", " dynamic-slice(")
_COPIES = {"copy-start": (1, 0), "slice-start": (0, 1)}
"""Asynchronous copies: the positions of source and copy in the type of the start operation."""
_BETWEEN_SLICES = re.compile(
    r'_xla_megascale_target="\{([\d,]+)\}[^"]*",_xla_megascale_transfer_type="(\w+)"'
)
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_SCOPE = re.compile(r'op_name="([^"]*)"')
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_BOUND = re.compile(r"compare\([^%]*%([\w.\-]+),[^%]*%([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"constant\((\d+)\)")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind.

    Attributes:
      count: how often they run.
      bytes: bytes that one chip receives.
      overlapped: those of the bytes that arrive while the chip computes.
    """

    count: int = 0
    bytes: float = 0.0
    overlapped: float = 0.0


@dataclasses.dataclass(frozen=True)
class Moved:
    """The bytes that a chip moves in one run.

    Attributes:
      collectives: the traffic of each kind of collective that the program has.
      hbm_bytes: bytes read from and written to the chip's memory.
      open_loops: names of loops whose number of trips is unknown; they count once.
      between_slices: what goes over the network between slices, through the host. Its bytes are
        those that this chip sends, and as many that it receives.
    """

    collectives: dict[str, Traffic]
    hbm_bytes: float
    open_loops: tuple[str, ...]
    between_slices: Traffic = Traffic()

    @property
    def overlapped(self) -> float:
        """Bytes that the chip receives while it computes."""
        return sum(traffic.overlapped for traffic in self.collectives.values())

    @property
    def waited_for(self) -> float:
        """Bytes that the chip waits for."""
        return sum(traffic.bytes for traffic in self.collectives.values()) - self.overlapped


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of the program, with what it moves to and from memory in one run.

    Attributes:
      kind: its name in HLO ("fusion", "copy").
      result: the type of its result, with the layout.
      scope: where in the source it comes from: jax's scopes and the primitive.
      runs: how often it runs.
      bytes: bytes that all runs read from and write to memory.
    """

    kind: str
    result: str
    scope: str
    runs: int
    bytes: float


def received(kind: str, result: float, group: int) -> float:
    """Bytes that each of ``group`` chips receives in a collective with a result of that many bytes.

    They are those of the ring algorithms: a chip receives n - 1 of n shards in an all-gather, n - 1
    partial sums of a shard in a reduce-scatter, and both, one after the other, in an all-reduce.
    """
    if kind == "collective-permute":
        return result
    if kind == "reduce-scatter":
        return result * (group - 1)
    return result * (group - 1) / group * (2 if kind == "all-reduce" else 1)


def _group_size(line: str, devices: int) -> int:
    """The number of chips in one group of a collective."""
    if found := _MESH_GROUPS.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if found := _COUNTED_GROUPS.search(line):
        return int(found[1])
    found = _LISTED_GROUPS.search(line)
    return len(found[1].split(",")) if found else devices


def _array_bytes(kind: str, sizes: str) -> float:
    return _BYTES.get(kind, 0) * math.prod(int(size) for size in sizes.split(",") if size)


def _result_bytes(result: str, started: bool) -> float:
    """Bytes of the arrays in the type of a result.

    The type of a started collective names its operand too: then the bytes of the largest array.
    """
    sizes = [_array_bytes(*shape) for shape in _SHAPE.findall(result)]
    return max(sizes, default=0) if started else sum(sizes)


def _hbm_bytes(result: str, started: bool = False) -> float:
    """As `_result_bytes`, of the arrays in HBM alone."""
    placed = _PLACED.findall(result)
    sizes = [_array_bytes(kind, sizes) for kind, sizes, layout in placed if "S(" not in layout]
    return max(sizes, default=0.0) if started else sum(sizes)


def _copied_bytes(result: str, source: int, copy: int) -> float:
    """Bytes that a copy reads from and writes to HBM."""
    arrays = _PLACED.findall(result)
    size = _array_bytes(*arrays[copy][:2])
    return sum(size for index in (source, copy) if "S(" not in arrays[index][2])


def _computations(text: str) -> tuple[dict[str, dict[str, str]], str]:
    """The instructions of every computation by name, and the name of the entry."""
    found: dict[str, dict[str, str]] = {}
    entry, here = "", None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            here = found[head[1]] = {}
            entry = head[1] if line.startswith("ENTRY") else entry
        elif here is not None and (instruction := _INSTRUCTION.match(line)):
            here[instruction[1]] = instruction[2]
    return found, entry


def _trip_count(condition: dict[str, str]) -> int | None:
    """The number of trips of a loop with this condition, from 0 on; None if it depends on data."""
    bounds = [found for line in condition.values() if (found := _BOUND.search(line))]
    for bound in bounds:
        constant = _CONSTANT.search(condition.get(bound[2], ""))
        if constant:
            return int(constant[1])
    return None


def _type_of(line: str) -> str:
    """The type of the result, which is written before the operation."""
    operation = _OPERATION.search(line)
    return line[: operation.start()] if operation else line


def _sliced(fused: dict[str, str]) -> dict[int, float]:
    """Bytes that a fusion reads of the operands that it only slices, by the operand's number."""
    found = {}
    for name, line in fused.items():
        number = _PARAMETER.search(line)
        if number is None:
            continue
        users = [other for other in fused.values() if re.search(rf"%{re.escape(name)}[,)]", other)]
        if users and all(any(kind in user for kind in _SLICES) for user in users):
            found[int(number[1])] = sum(_hbm_bytes(_type_of(user)) for user in users)
        elif users and all(
            re.search(rf" dynamic-update-slice\(%{re.escape(name)},", user) for user in users
        ):
            found[int(number[1])] = 0.0  # written in place
    return found


def _starts(name: str, lines: Iterable[str]) -> bool:
    """Whether the collective in a fusion starts in it, or is in it as a whole."""
    return not name.startswith(_CONTINUED) and not any(_DONE in line for line in lines)


def _computes_meanwhile(instructions: dict[str, str], started: str) -> bool:
    """Whether the chip computes anything between the start of a collective and its end."""
    names = list(instructions)
    for name in names[names.index(started) + 1 :]:
        line = instructions[name]
        operation = _OPERATION.search(line)
        kind = operation[1] if operation else "parameter"
        if kind.endswith("-done") and re.search(rf"%{re.escape(started)}[,)]", line):
            return False
        if kind not in _NO_TRAFFIC and not kind.endswith(("-start", "-done")):
            return True
    return False


class _Totals:
    """Sums the traffic over the computations of a program."""

    def __init__(self, text: str, devices: int):
        self.computations, entry = _computations(text)
        self.devices = devices
        self.found: dict[str, Traffic] = {}
        self.open_loops: list[str] = []
        self.between_slices = Traffic()
        self.operations: list[Operation] = []
        self.visit(entry, 1)

    def _traffic(self, computation: str, line: str, operation: re.Match) -> float:
        """Bytes that one instruction reads from and writes to HBM."""
        if operation[1] in _NO_TRAFFIC:
            return 0.0
        result = line[: operation.start()]
        if operation[1] in _COPIES:
            return _copied_bytes(result, *_COPIES[operation[1]])
        around = self.computations[computation]
        called = _CALLED.search(line)
        inner = self.computations.get(called[1], {}) if called else {}
        sliced = _sliced(inner) if operation[1] == "fusion" else {}
        arguments = line[operation.end() :].split("), ")[0]
        started = operation[1].removesuffix("-start") in KINDS and operation[1].endswith("-start")
        written = _hbm_bytes(result, started)
        updates = [one for one in inner.values() if " dynamic-update-slice(" in one]
        if f" {operation[1]}(" in _SLICES:
            return _result_bytes(result, False) + written
        if operation[1] == "dynamic-update-slice" or updates:
            within = updates[0] if updates else line
            part = _OPERANDS.findall(within.split("dynamic-update-slice(")[1])[1]
            lines = inner if updates else around
            written = min(written, _hbm_bytes(_type_of(lines.get(part, ""))))
        read = 0.0
        names = _OPERANDS.findall(arguments)
        for number, operand in enumerate(names):
            if operand in names[:number]:  # a kernel that takes an array twice has parts of it
                continue
            size = _hbm_bytes(_type_of(around.get(operand, "")))
            read += min(size, sliced.get(number, size))
        return read + written

    def visit(self, name: str, times: int, fused: bool = False) -> None:
        """Adds ``times`` runs of a computation; of a fused one, its collectives alone."""
        lines = self.computations[name].values()
        if fused and not _starts(name, lines):
            return
        hidden = fused and any(_STARTED in line for line in lines)
        for instruction, line in self.computations[name].items():
            operation = _OPERATION.search(line)
            if operation is None:
                continue
            kind = operation[1].removesuffix("-start")
            if kind == "send" and (through_host := _BETWEEN_SLICES.search(line)):
                self._add_between_slices(line, operation, *through_host.groups(), times)
            if not fused and not operation[1].endswith("-done"):
                size = times * self._traffic(name, line, operation)
                scope = _SCOPE.search(line)
                result = line[: operation.start()].strip()
                self.operations.append(
                    Operation(operation[1], result, scope[1] if scope else "", times, size)
                )
            if loop := _LOOP.search(line):
                trips = _trip_count(self.computations[loop[1]])
                self.visit(loop[2], times * (1 if trips is None else trips))
                if trips is None:
                    self.open_loops.append(instruction)
            elif kind in KINDS:
                started = operation[1] != kind
                size = _result_bytes(line[: operation.start()], started)
                if (
                    kind == "all-reduce" and "all-reduce-scatter" in name
                ):  # an all-reduce fused with a slice
                    kind, size = "reduce-scatter", size / _group_size(line, self.devices)
                meanwhile = started and _computes_meanwhile(self.computations[name], instruction)
                self._add(kind, size, line, times, hidden or meanwhile)
            elif (called := _CALLED.search(line)) and called[1] in self.computations:
                self.visit(called[1], times, fused=True)

    def _add_between_slices(
        self, line: str, operation: re.Match, target: str, kind: str, times: int
    ) -> None:
        """A transfer to the hosts, which exchange it with those of the other slices."""
        slices = len(target.split(","))
        size = max(_array_bytes(*shape) for shape in _SHAPE.findall(line[: operation.start()]))
        more = times * received(kind.lower().replace("_", "-"), size, slices)
        old = self.between_slices
        self.between_slices = Traffic(old.count + times, old.bytes + more)

    def _add(self, kind: str, size: float, line: str, times: int, hidden: bool) -> None:
        more = times * received(kind, size, _group_size(line, self.devices))
        old = self.found.get(kind, Traffic())
        overlapped = old.overlapped + (more if hidden else 0.0)
        self.found[kind] = Traffic(old.count + times, old.bytes + more, overlapped)


def moved(text: str, devices: int) -> Moved:
    """Returns what each chip moves.

    Args:
      text: ``compiled.as_text()``.
      devices: the number of chips that the program runs on.
    """
    totals = _Totals(text, devices)
    found = {kind: totals.found[kind] for kind in KINDS if kind in totals.found}
    size = sum(operation.bytes for operation in totals.operations)
    return Moved(found, size, tuple(totals.open_loops), totals.between_slices)


def operations(text: str, devices: int) -> list[Operation]:
    """Returns the instructions that read or write memory. Args: as `moved`."""
    return [one for one in _Totals(text, devices).operations if one.bytes]
