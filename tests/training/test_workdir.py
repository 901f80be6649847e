"""A run's folder in a bucket: the same files, by the same code. The bucket is a local folder."""

import dataclasses
import json
import sys

import fsspec
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.training import metrics, workdir
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings

REGISTRY = sys.modules["fsspec.registry"]._registry


@pytest.fixture
def bucket(tmp_path):
    """gs://bucket as a folder: what gcsfs would be."""

    class Bucket(DirFileSystem):
        protocol = ("gs", "gcs")

        def __init__(self, **options):
            super().__init__(str(tmp_path), LocalFileSystem(auto_mkdir=True))

        def _join(self, path):
            return super()._join(path.removeprefix("gs://") if isinstance(path, str) else path)

    fsspec.register_implementation("gcs", Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield tmp_path / "bucket"
    backend.fsspec_backend._get_filesystem.cache_clear()
    REGISTRY.pop("gcs")


class NoBoard:
    """TensorBoard's own path to gs:// needs a cloud."""

    def __init__(self, folder, purge_step):
        self.write_scalars = self.write_image = lambda *_: None


def test_metrics_and_pictures_go_to_a_bucket(bucket, monkeypatch):
    monkeypatch.setattr(metrics, "TensorBoardWriter", NoBoard)
    (bucket / "run").mkdir(parents=True)
    writer = metrics.MetricWriter("gs://bucket/run", 0)
    writer.write(1, {"loss": 3.0})
    writer.write(2, {"loss": 2.0})
    writer.write_pictures(2, [np.zeros((4, 4, 3), np.float32)])
    writer = metrics.MetricWriter("gs://bucket/run", 1)  # back at step 1
    writer.write(2, {"loss": 1.0})
    lines = (bucket / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [3.0, 1.0]
    assert sorted(file.name for file in bucket.rglob("*") if file.is_file()) == [
        "0000002_0.png",
        "metrics.jsonl",
    ]


def test_half_written_steps_in_a_bucket_are_set_aside(bucket):
    step = bucket / "run" / "checkpoints" / "3" / "state"
    step.mkdir(parents=True)
    (step / "half").write_text("x")
    workdir.set_aside_incomplete("gs://bucket/run/checkpoints")
    assert [child.name for child in (bucket / "run" / "checkpoints").iterdir()] == ["3.incomplete"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path, caplog):
    (tmp_path / "780.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    workdir.set_aside_incomplete(tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["notes"]
    assert "removed 780.orbax-checkpoint-tmp" in caplog.text


def test_a_bucket_without_its_package_is_one_line(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"gs://bucket/run: gs:// needs .* pip install gcsfs"):
        store.absolute("gs://bucket/run")


def test_other_addresses_are_refused():
    with pytest.raises(UserError, match="not s3://"):
        store.absolute("s3://bucket/run")


SETTINGS = Settings("vae", Data(("clips",), 1, 5, (16, 16)), Optimizer(0.1), Loop(6), None)


def test_the_same_run_may_change_its_numbers_and_not_its_stage_or_model(tmp_path):
    with workdir.claimed(str(tmp_path / "run"), SETTINGS) as folder:
        pass
    longer = dataclasses.replace(SETTINGS, loop=Loop(7))
    with (
        workdir.claimed(str(folder), longer),
        pytest.raises(UserError, match="in use by process"),
        workdir.claimed(str(folder), longer),
    ):
        pass
    written = (folder / "config.json").read_text()
    assert json.loads(written)["loop"]["steps"] == 7
    assert {path.name for path in folder.iterdir()} == {"config.json", ".lock"}
    for other in ({"stage": "sr"}, {"model": "seedvr2_3b"}):
        with pytest.raises(UserError, match=f"holds a run of {next(iter(other))}"):
            workdir.claimed(str(folder), dataclasses.replace(SETTINGS, **other)).__enter__()
    assert (folder / "config.json").read_text() == written
