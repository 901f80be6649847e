"""``infer.py --dry_run``: what it says, and that it does nothing."""

import shutil
from fractions import Fraction

import numpy as np
import pytest
import small_model

from skipsr_jax.cli import arguments as cli_arguments
from skipsr_jax.cli import infer
from skipsr_jax.inference import cost, forecast
from skipsr_jax.media.video_writer import VideoWriter


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(tmp_path / "a.mp4", height=16, width=24, rate=Fraction(24)) as writer:
        for value in range(7):
            writer.write(np.full((16, 24, 3), 30 * value, np.uint8))
    checkpoint = small_model.write_small_model(tmp_path / "model")
    return ["infer.py", "--dry_run", "--input=a.mp4", f"--config.checkpoint={checkpoint}",
            "--config.chunk.frames=5", "--config.chunk.overlap=1", "--output=big.mp4",
            f"--compile_cache_dir={tmp_path}/cache"]  # fmt: skip


def test_it_says_what_an_input_takes_and_does_nothing(arguments, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert infer.main(arguments) == 0
    said = capsys.readouterr().out
    assert "a.mp4 -> big.mp4" in said
    assert "24x16 -> 96x64, 7 frames in 2 chunks" in said
    assert "GiB on the cpu: the process" in said and "GiB are free in" in said
    assert "by operations; no run here was measured; programs have to be compiled" in said
    assert sorted(tmp_path.iterdir()) == before
    assert infer.main([*arguments, "--config.output.segment_frames=4"]) == 0
    said = capsys.readouterr().out
    assert "about 0.0 MiB, and 0.1 MiB until its segments are joined" in said


def test_what_cannot_fit_is_said_before_anything_starts(arguments, monkeypatch, capsys):
    monkeypatch.setattr(cost, "memory_limit", lambda model: 2**20)
    assert infer.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("infer.py: 96x64, 7 frames, needs about") and said.count("\n") == 1


def test_programs_of_a_size_are_compiled_once(arguments, tmp_path, monkeypatch, capsys):
    for name in ("b", "c"):
        shutil.copy(tmp_path / "a.mp4", tmp_path / f"{name}.mp4")
    batch = [a for a in arguments if not a.startswith("--output")]
    batch += ["--input=b.mp4", "--input=c.mp4"]
    usual = forecast.Speed(start=100.0, programs=10.0, rate=1e30)
    monkeypatch.setattr(forecast, "read_speed", lambda *_: usual)
    assert infer.main(batch) == 0
    said = capsys.readouterr().out
    assert said.count("the compiler") == 3
    assert "about 110 s in all" in said and "; programs have to be compiled" in said
    missing = iter([0.4, 1.0])
    monkeypatch.setattr(forecast, "missing_programs", lambda *_: next(missing))
    sizes = iter([(64, 96), (32, 48), (32, 48)])
    monkeypatch.setattr(cli_arguments, "target_size", lambda *_: next(sizes))
    assert infer.main(batch) == 0
    said = capsys.readouterr().out
    assert "about 114 s in all" in said and "some programs have to be compiled" in said
