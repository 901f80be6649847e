"""Seconds that a compiled program's kernels take, by named scope and by pass of the derivative.

A trace of the profiler says how long each operation of the optimised program ran; the program's
text says which scope it comes from. The time of a fusion belongs to the scope of its result. Where
XLA records kernels in command buffers, the trace names no operations: compile with
``XLA_FLAGS=--xla_gpu_enable_command_buffer=`` then, or they are counted under "unnamed".
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax

FORWARD, AGAIN, BACKWARD = PASSES = ("forward", "recomputed", "backward")

_NAMED = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"')
_PARTS = re.compile(r"[\w.\-]+")
_CONTAINERS = re.compile(r"(while|call|conditional)[.\d]*")
"""Operations whose time is that of others within them."""
_UNNAMED = "unnamed"


def kernel_rows(
    compiled: jax.stages.Compiled, run: Callable[[], Any], steps: int, scopes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Milliseconds of each scope in a run, most first: forward, recomputed, backward, total.

    Args:
      compiled: the program that ``run`` calls.
      run: runs it once and returns its results.
      steps: how many runs are traced.
      scopes: names of ``jax.named_scope``. An operation belongs to the innermost one of them. What
        belongs to none is counted under its outermost scope.
    """
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                jax.block_until_ready(run())
        seconds = _operation_seconds(pathlib.Path(folder))
    names = dict(
        found.groups() for found in map(_NAMED.match, compiled.as_text().splitlines()) if found
    )
    times: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for operation, spent in seconds.items():
        scope, which = _scope_and_pass(names.get(operation, ""), scopes)
        times[scope][which] += 1e3 * spent / steps
    rows = [
        {"scope": scope} | {name: parts[name] for name in PASSES} | {"total": parts.total()}
        for scope, parts in times.items()
    ]
    return sorted(rows, key=lambda row: -row["total"])


def _operation_seconds(folder: pathlib.Path) -> dict[str, float]:
    """Seconds of each operation of one device in the trace below ``folder``."""
    (path,) = folder.glob("**/*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    seconds: dict[str, float] = collections.Counter()
    for plane in devices[:1] or planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is None:
                    if not devices or not line.name.startswith("Stream"):
                        continue
                    operation = event.name
                if not _CONTAINERS.fullmatch(operation):
                    seconds[operation] += event.duration_ns / 1e9
    return seconds


def _scope_and_pass(name: str, scopes: tuple[str, ...]) -> tuple[str, str]:
    """Scope and pass of an operation, from its ``op_name``."""
    which = FORWARD
    if "rematted_computation" in name:
        which = AGAIN
    elif "transpose(" in name:
        which = BACKWARD
    parts = _PARTS.findall(name)
    inner = next((part for part in reversed(parts) if part in scopes), None)
    outer = [part for part in parts if part not in {"jit", "jvp", "transpose"}][1:-1]
    return inner or next(iter(outer), _UNNAMED), which
