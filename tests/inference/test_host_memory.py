"""The memory of the host, from the files in which Linux states it."""

import pytest

from skipsr_jax.inference import host_memory


@pytest.mark.parametrize(
    "cgroup,limit", [("max", 8192 * 1024), ("4096", 4096), ("99999999999", 8192 * 1024)]
)
def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch, cgroup, limit):
    (tmp_path / "meminfo").write_text("MemTotal:       8192 kB\nMemFree: 1 kB\n")
    (tmp_path / "max").write_text(f"{cgroup}\n")
    monkeypatch.setattr(host_memory, "_MEMINFO", str(tmp_path / "meminfo"))
    monkeypatch.setattr(host_memory, "_CGROUP_LIMITS", (str(tmp_path / "max"),))
    assert host_memory.host_limit() == limit


def test_a_system_that_says_nothing_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "_MEMINFO", str(tmp_path / "absent"))
    monkeypatch.setattr(host_memory, "_CGROUP_LIMITS", (str(tmp_path / "absent"),))
    assert host_memory.host_limit() is None
