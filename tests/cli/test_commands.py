"""Entry points start their programs, and a missing extra is one line that names it."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from skipsr_jax.cli import commands, device_start

ROOT = Path(__file__).resolve().parents[2]
OF_TRAIN = ("grain", "tensorflow_datasets", "tensorboardX", "importlib_resources")
"""Modules that the extra train installs and nothing of the core depends on."""


def without(modules, statements):
    """Runs Python where these modules cannot be imported. Returns status, stdout and stderr."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n"
    command = [sys.executable, "-c", block + statements]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_every_entry_point_is_a_function():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["scripts"]) == [
        f"skipsr-{name}" for name in ("convert", "data", "export", "infer", "train")
    ]
    for target in project["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_upscaling_converting_and_exporting_need_no_extra():
    status, _, said = without(
        OF_TRAIN,
        "import skipsr_jax.cli.infer\nfrom skipsr_jax.checkpoints import convert, export",
    )
    assert status == 0, said


def test_upscaling_does_not_import_pallas():
    """It traces no kernel where its programs are kept."""
    status, said, _ = without((), "import skipsr_jax.cli.infer\nprint(*sys.modules)")
    assert status == 0
    assert "jax.experimental.pallas" not in said.split()


@pytest.mark.parametrize(
    ("command", "missing"), [("train", "grain"), ("data", "tensorflow_datasets")]
)
def test_a_missing_extra_is_one_line(command, missing):
    status, _, said = without(
        (missing,),
        f"sys.argv = ['/bin/skipsr-{command}', '--help']\n"
        f"from skipsr_jax.cli.commands import {command}\nsys.exit({command}())",
    )
    assert status == 1
    assert said == (
        f"skipsr-{command}: {missing} is not installed: pip install 'skipsr-jax[train]'\n"
    )


@pytest.mark.parametrize(("command", "status"), [("infer", 143), ("train", 0)])
def test_a_program_that_is_stopped_waits_for_no_thread(command, status):
    """As one that makes a batch of a million pictures; the interpreter would join it.

    Of the batches that training leaves in shared memory nothing is said.
    """
    program = f"""
import concurrent.futures, signal, threading, types
from multiprocessing import shared_memory
from skipsr_jax import signals
from skipsr_jax.cli import commands

def main(argv):
    if {command == "train"}:
        shared_memory.SharedMemory(create=True, size=8)
    concurrent.futures.ThreadPoolExecutor(1).submit(threading.Event().wait)
    status = signals.status_of_training if {command == "train"} else signals.status_of
    return signals.report("program", signals.Stopped(signal.SIGTERM), status)

commands._start_device = lambda: None
sys.modules["skipsr_jax.cli.{command}"] = types.SimpleNamespace(main=main)
sys.exit(commands.{command}())
"""
    done = subprocess.run(
        [sys.executable, "-c", "import sys" + program], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, "program: stopped by SIGTERM\n")


def test_a_program_that_is_done_waits_for_its_threads_and_cleans_nothing_up():
    program = """
import atexit, concurrent.futures, gc, sys, time, types
from skipsr_jax.cli import commands

def work():
    time.sleep(0.2)
    print("worked", end="")

def main(argv):
    atexit.register(print, "cleaned up")
    concurrent.futures.ThreadPoolExecutor(1).submit(work)
    print("collects" if gc.isenabled() else "does not collect")
    return 3

commands._start_device = lambda: None
sys.modules["skipsr_jax.cli.infer"] = types.SimpleNamespace(main=main)
sys.exit(commands.infer())
"""
    assert without((), program) == (3, "collects\nworked", "")


@pytest.mark.parametrize("program", ["infer", "train"])
def test_starting_a_program_imports_jax_only_when_called(program):
    """A data worker imports the script of its parent process again."""
    status, _, said = without((), f"import {program}\nassert 'jax' not in sys.modules")
    assert status == 0, said


@pytest.mark.parametrize(
    ("arguments", "is_small"),
    [
        (["-i", "a.mp4", "--config.size.height=720"], True),
        (["--config=seedvr2_3b"], False),
        (["--config", "seedvr2_3b"], False),
        (["--config.checkpoint=runs/3b"], False),
    ],
)
def test_the_device_is_told_whether_the_default_model_runs(monkeypatch, arguments, is_small):
    told = []
    monkeypatch.setattr(device_start, "start_device", lambda **given: told.append(given))
    monkeypatch.setattr(sys, "argv", ["infer.py", *arguments])
    commands._start_device()
    assert told == [{"is_small": is_small}]
