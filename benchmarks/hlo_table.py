"""Which operations of a program for TPU move the most bytes to and from memory, as a table."""

import re
from collections.abc import Iterable

from benchmarks.hlo import Operation

_LAYOUT = re.compile(r"\{[^{}]*\}")
_WIDTH = 100
"""Characters of a scope; its end names the source best."""


def _merged(operations: Iterable[Operation]) -> list[Operation]:
    """Operations of one kind, result and scope as one, by falling bytes."""
    groups: dict[tuple[str, str, str], list[Operation]] = {}
    for one in operations:
        groups.setdefault((one.kind, one.result, one.scope), []).append(one)
    merged = [
        Operation(*key, sum(one.runs for one in group), sum(one.bytes for one in group))
        for key, group in groups.items()
    ]
    return sorted(merged, key=lambda one: -one.bytes)


def memory_table(operations: Iterable[Operation], top: int) -> str:
    """The ``top`` operations with the most bytes, as Markdown; the last line is the rest."""
    merged = _merged(operations)
    total = sum(one.bytes for one in merged)
    lines = ["| GB | % | runs | operation | result | scope |", "|---" * 6 + "|"]
    for one in merged[:top]:
        result = one.result if len(one.result) <= _WIDTH else _LAYOUT.sub("", one.result)[:_WIDTH]
        cells = (
            f"{one.bytes / 1e9:.2f}", f"{100 * one.bytes / total:.1f}", str(one.runs), one.kind,
            result, one.scope[-_WIDTH:],
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    rest = merged[top:]
    left = sum(one.bytes for one in rest)
    percent = 100 * left / total if total else 0.0
    lines.append(f"| {left / 1e9:.2f} | {percent:.1f} | | {len(rest)} others | | |")
    return "\n".join(lines)
