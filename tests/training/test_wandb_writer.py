"""Metrics and pictures in Weights & Biases, offline."""

import builtins
import json
import struct
import time

import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.training.metrics import MetricWriter
from skipsr_jax.training.wandb_writer import WandbWriter


def log_records(data):
    """The records of a log in LevelDB's format: parts with a header of 7 bytes in blocks of 32 KiB,
    after a header of the file."""
    at, record = 7, b""
    while at + 7 < len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            yield record
            record = b""


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_wandb(name, *rest):
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_wandb)
    with pytest.raises(UserError, match=r"wandb is not installed: pip install .*\[wandb\]"):
        WandbWriter("project", str(tmp_path), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_restarted_workdir_is_one_run_with_all_steps_and_pictures(tmp_path, monkeypatch):
    """What wandb keeps offline is read back from its own log of records."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 1):
        writer = MetricWriter(
            str(tmp_path), first, [WandbWriter("skipsr", str(tmp_path), {"seed": 3})]
        )
        writer.write(first + 1, {"loss": 0.5 - first / 10})
        writer.write_pictures(first + 1, [np.zeros((4, 6, 3), np.float32)])
        writer.close()
    began, records = time.monotonic(), []
    while sum(record.WhichOneof("record_type") == "exit" for record in records) < 2:
        assert time.monotonic() - began < 300, "wandb's process has not written its logs"
        time.sleep(0.05)
        logs = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
        records = [record for path in logs for record in log_records(path.read_bytes())]
        records = [wandb_internal_pb2.Record.FromString(record) for record in records]
    runs = {(r.run.run_id, r.run.project) for r in records if r.run.run_id}
    rows = [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        for record in records
    ]
    assert runs == {((tmp_path / "wandb_id").read_text(), "skipsr")}
    assert [row["loss"] for row in rows if "loss" in row] == [0.5, 0.4]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert sum(any(name.startswith("samples/0") for name in row) for row in rows) == 2
