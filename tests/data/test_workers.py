"""Damaged files are passed over and named, and workers do not outlive the process they serve."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from skipsr_jax.data import workers
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.sample import Recipe
from skipsr_jax.data.workers import sample_of_any
from skipsr_jax.errors import UserError

SHAPE = ClipShape(1, 1, 16, 16)
RECIPE = Recipe(SHAPE, SHAPE, masks=False)
TRAIN = """
import sys, time
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.dataset import batches, iterate
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.sample import Recipe

if __name__ == "__main__":
    shape = ClipShape(1, 1, 16, 16)
    recipe = Recipe(shape, shape, image_share=1.0, masks=False)
    iterator = iterate(batches(find_sources([sys.argv[1]], strict=False), recipe), workers=1)
    next(iterator)
    print("ready", flush=True)
    time.sleep(600)
"""

KILL = """
    import multiprocessing, os, signal
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
    try:
        for _ in range(20):
            next(iterator)
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def sources(tmp_path):
    """Two pictures; the first is cut short after it was found."""
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    found = find_sources([str(tmp_path)])
    damaged = tmp_path / "a.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    workers._warn.cache_clear()
    return sorted(found, key=lambda source: source.path)


def drawn(source, sources, recipe=RECIPE):
    return sample_of_any(source, np.random.default_rng(3), SHAPE, recipe, sources)


def test_another_clip_stands_in_for_one_that_cannot_be_read(sources, caplog):
    first, second = (drawn(sources[0], sources) for _ in range(2))
    np.testing.assert_array_equal(first.hr, second.hr)  # whichever worker, whenever
    picture = np.asarray(Image.open(sources[1].path))
    crops = np.lib.stride_tricks.sliding_window_view(picture, (16, 16, 3)).reshape(-1, 16, 16, 3)
    either = (first.hr[0], first.hr[0][:, ::-1])
    assert any((crops == crop).all((1, 2, 3)).any() for crop in either)
    named = [r.getMessage() for r in caplog.records]
    assert len(named) == 1 and "a.png" in named[0] and "passed over" in named[0]


def test_strict_and_hopeless_data_end_in_one_line_that_names_the_file(sources):
    strict = Recipe(SHAPE, SHAPE, masks=False, strict=True)
    with pytest.raises(UserError, match=r"a\.png.*data\.strict is set"):
        drawn(sources[0], sources, strict)
    pathlib.Path(sources[1].path).unlink()
    with pytest.raises(UserError, match="none of 10 clips drawn one after the other from 2"):
        drawn(sources[0], sources)


def children(pid):
    """Processes that any thread of a process started."""
    lists = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listed in lists for child in listed.read_text().split()]


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.slow
def test_a_killed_worker_names_the_file_that_it_was_reading(sources, tmp_path):
    script = tmp_path / "kill.py"
    script.write_text(TRAIN.replace("time.sleep(600)", KILL))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, script, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=120)
    assert f"a data worker was killed while it was reading {tmp_path}/" in said.stdout, said
    assert not list(tmp_path.glob("skipsr_reading-*"))


def test_only_notes_of_dead_workers_are_read_and_all_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.tempfile, "tempdir", str(tmp_path))
    alive = types.SimpleNamespace(pid=12)
    monkeypatch.setattr(workers.multiprocessing, "active_children", lambda: [alive])
    for parent, worker, name in ((os.getpid(), 11, "a.mp4"), (os.getpid(), 12, "b"), (1, 13, "c")):
        workers._note_path(parent, worker).write_text(name)

    def batches(message):
        yield 1
        raise RuntimeError(message)

    words = "Worker process was terminated unexpectedly with exit code -9."
    served = workers.naming_files(batches(words))
    assert next(served) == 1
    with pytest.raises(UserError, match=r"while it was reading a\.mp4: "):
        next(served)
    assert [note.name for note in tmp_path.iterdir()] == ["skipsr_reading-1-13"]
    with pytest.raises(RuntimeError, match="mine"):
        list(workers.naming_files(batches("mine")))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_kill_9_leaves_no_worker_behind(sources, tmp_path):
    script = tmp_path / "train_like.py"
    script.write_text(TRAIN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        ready = process.stdout.readline()
        started = [p for p in children(process.pid) if "spawn_main" in command_of(p)]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ready == b"ready\n" and started
    until = time.monotonic() + 30
    while left := [p for p in started if "spawn_main" in command_of(p)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)
