"""Space is asked for before it is used, and errors of the disk become one line."""

import errno
import os
import shutil

import pytest

from skipsr_jax import disk_space
from skipsr_jax.errors import UserError


def test_a_disk_without_the_space_is_named_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 8, 2**20))
    disk_space.require_space(tmp_path / "a" / "b", 2**20, "it")
    with pytest.raises(UserError) as raised:
        disk_space.require_space(tmp_path / "a" / "b", 3 * 2**30, "the checkpoint")
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / 'a' / 'b'}: the checkpoint takes up to 3.0 GiB of disk")
    assert f"{tmp_path} has 1.00 MiB free" in line


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("nbytes", [0, 1, 3 << 20])
def test_an_allocated_file_is_zeros_with_space(tmp_path, monkeypatch, platform, nbytes):
    monkeypatch.setattr(disk_space.sys, "platform", platform)
    disk_space.allocate(tmp_path / "f", nbytes)
    assert (tmp_path / "f").read_bytes() == bytes(nbytes)
    assert (tmp_path / "f").stat().st_blocks * 512 >= nbytes


def test_errors_of_the_disk_are_one_line():
    full = os.strerror(errno.ENOSPC)
    with pytest.raises(UserError, match=f"^cannot write out: {full}$"):  # noqa: SIM117
        with disk_space.disk_errors_as_one_line("out"):
            raise OSError(errno.ENOSPC, full)
    with pytest.raises(UserError, match=full), disk_space.disk_errors_as_one_line("out"):
        try:
            raise ValueError(f"UNAVAILABLE: writing a.b: {full} [source locations=...]\nmore")
        except ValueError as error:
            raise RuntimeError("could not save") from error
    with pytest.raises(RuntimeError, match="mine"), disk_space.disk_errors_as_one_line("out"):
        raise RuntimeError("mine")
    with pytest.raises(UserError, match="mine"), disk_space.disk_errors_as_one_line("out"):
        raise UserError("mine")
