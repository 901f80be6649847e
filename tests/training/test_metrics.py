"""Metrics that cannot be written stop nothing, and torn lines are mended."""

import contextlib
import json
import logging
import resource

import numpy as np
import pytest

from skipsr_jax.training.metrics import MetricWriter, mean_by_kind


@contextlib.contextmanager
def files_of_at_most(count):
    """No file may grow beyond so many bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_full_disk_is_said_once_and_lines_are_written_when_there_is_room_again(tmp_path, caplog):
    writer = MetricWriter(str(tmp_path), 0)
    writer.write(1, {"loss": 1.0})
    with files_of_at_most(40):
        for step in range(2, 40):
            writer.write(step, {"loss": 1.0})
        writer.write_pictures(39, [np.random.default_rng(0).random((32, 32, 3), np.float32)])
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 3 and all("cannot be written" in text for text in warned)
    assert steps(tmp_path) in ([1], [1, 2])
    writer.write(40, {"loss": 1.0})
    writer.close()
    assert steps(tmp_path) == list(range(1, 41))
    assert not list((tmp_path / "samples").iterdir())


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step"', b"\xff\x00", b"7", b"[]"])
def test_a_torn_last_line_is_removed_and_said(tmp_path, caplog, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n' + torn)
    writer = MetricWriter(str(tmp_path), 2)
    assert steps(tmp_path) == [1, 2]
    assert "1 line(s) that are not whole" in caplog.text
    writer.write(3, {"loss": 0.5})
    assert steps(tmp_path) == [1, 2, 3]


def test_lines_of_later_steps_are_dropped_after_a_restart(tmp_path):
    writer = MetricWriter(str(tmp_path), 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0})
    MetricWriter(str(tmp_path), 1).write(2, {"loss": 0.0})
    assert steps(tmp_path) == [1, 2]


def test_means_are_of_each_kind_where_there_are_several():
    entries = [("video", {"loss": 1.0, "psnr": 3.0}), ("image", {"loss": 3.0, "psnr": 5.0})]
    assert mean_by_kind(entries) == {
        "loss": 2.0, "video/loss": 1.0, "image/loss": 3.0, "video/psnr": 3.0, "image/psnr": 5.0,
    }  # fmt: skip
    assert mean_by_kind(entries[:1]) == {"loss": 1.0, "psnr": 3.0}
