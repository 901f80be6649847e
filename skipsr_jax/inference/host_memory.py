"""The memory that this process may use on the host."""

import pathlib

_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",  # version 2
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # version 1
)
_MEMINFO = "/proc/meminfo"


def host_limit() -> int | None:
    """The machine's memory, or what the cgroup of a container allows, if less; in bytes.

    None where the system says neither, as outside of Linux.
    """
    limits = [_cgroup_limit(path) for path in _CGROUP_LIMITS]
    found = [limit for limit in (_machine_memory(), *limits) if limit]
    return min(found, default=None)


def _cgroup_limit(path: str) -> int | None:
    try:
        text = pathlib.Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _machine_memory() -> int | None:
    try:
        lines = pathlib.Path(_MEMINFO).read_text().splitlines()
    except OSError:
        return None
    total = next((line for line in lines if line.startswith("MemTotal:")), None)
    return None if total is None else int(total.split()[1]) * 1024
