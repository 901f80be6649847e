"""The memory of devices and of the host: what this process may hold, and a limit below which it
stays alive.

Linux states the machine's memory in /proc/meminfo, and what a container or a service may use in its
control group (cgroup, versions 1 and 2) and in those that hold it. The least of them counts.
Elsewhere nothing is known, and nothing limited.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

try:
    import resource
except ImportError:  # not on Windows
    resource = None

_PROC = pathlib.Path("/proc")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the version: the files of the limit and of what is in use, and the entry of memory.stat for
what the kernel gives back first."""


def host_limit() -> int | None:
    """The bytes that this process may come to hold: what it holds, and what is free.

    None where the system does not say, as outside of Linux.
    """
    free = host_free()
    return None if free is None else free + _entry("self/status", "VmRSS")


def device_limit(device: Any) -> int | None:
    """The bytes that a ``jax.Device`` may hold, on a CPU ``host_limit``; None where none says."""
    if device.platform == "cpu":
        return host_limit()
    return (device.memory_stats() or {}).get("bytes_limit")


def host_free() -> int | None:
    """The bytes that can be had without taking them from others; None where nobody knows.

    Memory that caches files counts as free, and so does swap space.
    """
    machine = _entry("meminfo", "MemAvailable") + _entry("meminfo", "SwapFree")
    found = [machine] if machine else []
    for folder, version in _cgroups():
        limit, used, reclaimed = _FILES[version]
        maximum, current = _number(folder / limit), _number(folder / used)
        if maximum is not None and current is not None:
            caches = _stat(folder / "memory.stat", reclaimed)
            found.append(max(0, maximum - current + caches))
    return min(found, default=None)


@contextlib.contextmanager
def limited_allocations() -> Iterator[None]:
    """Within it an allocation of more than is free fails, as RESOURCE_EXHAUSTED or MemoryError.

    Without it the kernel grants more than there is, and kills a process, this one or another, when
    the pages are written.
    """
    free, held = host_free(), _entry("self/status", "VmData")
    if resource is None or free is None or not held:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = [free + held, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _cgroups() -> Iterator[tuple[pathlib.Path, int]]:
    """The control groups of this process that govern memory, inner ones first, with versions."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, version = (_CGROUPS / "memory", 1) if controllers else (_CGROUPS, 2)
        inner = pathlib.PurePosixPath(path.lstrip("/"))
        for part in (inner, *inner.parents):
            yield root / part, version


def _number(path: pathlib.Path) -> int | None:
    """The number in a file; None where there is no file, or no number, as "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: pathlib.Path, name: str) -> int:
    """An entry of a file of names and numbers; 0 where it is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def _entry(file: str, name: str) -> int:
    """The bytes that a file below /proc states for a name; 0 where it does not."""
    try:
        lines = (_PROC / file).read_text().splitlines()
    except OSError:
        return 0
    found = (line.split() for line in lines if line.startswith(f"{name}:"))
    return next((int(words[1]) * 1024 for words in found if len(words) > 1), 0)
