"""The memory of the host, from the files in which Linux states it, and the limit of allocations."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from skipsr_jax import host_memory

MIB = 2**20
SCRIPT = """
import numpy as np
from skipsr_jax import host_memory
host_memory.host_free = lambda: 64 * 2**20
with host_memory.limited_allocations():
    np.ones(16 * 2**20, np.uint8)
    try:
        np.ones(96 * 2**20, np.uint8)
    except MemoryError:
        print("refused")
print(np.ones(96 * 2**20, np.uint8).size)
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A folder for the files of /proc and /sys/fs/cgroup; the machine has 8 MiB, 6 of them free."""
    proc = tmp_path / "self"
    proc.mkdir()
    (tmp_path / "meminfo").write_text(
        "MemTotal: 8192 kB\nMemFree: 1 kB\nMemAvailable: 5120 kB\nSwapFree: 1024 kB\n"
    )
    (proc / "status").write_text("VmRSS: 512 kB\nVmData: 300 kB\n")
    (proc / "cgroup").write_text("")
    monkeypatch.setattr(host_memory, "_PROC", tmp_path)
    monkeypatch.setattr(host_memory, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path


def group(folder: pathlib.Path, limit: str, used: int, cached: int, version: int = 2):
    folder.mkdir(parents=True, exist_ok=True)
    names = host_memory._FILES[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def test_without_control_groups_the_machine_counts(system):
    assert host_memory.host_free() == 6 * MIB
    assert host_memory.host_limit() == 6 * MIB + 512 * 1024


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_control_group_counts(system, version):
    line, root = ("0::/a/b\n", "cgroup") if version == 2 else ("4:memory:/a/b\n", "cgroup/memory")
    (system / "self" / "cgroup").write_text("9:name=systemd:/\n8:pids:/\n" + line)
    group(system / root / "a" / "b", "max" if version == 2 else str(2**63 - 4096), 1, 0, version)
    assert host_memory.host_free() == 6 * MIB
    group(system / root / "a", str(4 * MIB), 3 * MIB, MIB, version)  # a group of groups
    assert host_memory.host_free() == 2 * MIB
    group(system / root / "a" / "b", str(MIB), 2 * MIB, 0, version)
    assert host_memory.host_free() == 0


def test_a_system_that_says_nothing_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "_PROC", tmp_path / "absent")
    assert host_memory.host_free() is None and host_memory.host_limit() is None
    with host_memory.limited_allocations():
        assert np.ones(MIB).size == MIB


@pytest.mark.skipif(sys.platform != "linux", reason="the system states no memory of a process")
def test_an_allocation_beyond_what_is_free_fails_and_kills_nothing():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout.split() == ["refused", str(96 * MIB)], done.stderr
