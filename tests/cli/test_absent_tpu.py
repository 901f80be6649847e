"""libtpu is left out where there is no TPU, and only where nothing else is lost by that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipsr_jax.cli import absent_tpu

ROOT = Path(__file__).resolve().parents[2]
CPU_ALONE = {"JAX_PLATFORMS": "cpu"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The files of a machine without an accelerator, on which libtpu alone is installed."""
    monkeypatch.setattr(absent_tpu.importlib.util, "find_spec", {"libtpu": object()}.get)
    monkeypatch.setattr(absent_tpu, "entry_points", lambda group: ())
    device = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:00:01.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    (tmp_path / "dev" / "vfio" / "vfio").touch()  # of every machine that can pass devices on
    return tmp_path


def chosen(machine, **environment):
    absent_tpu.leave_out_absent_tpu(environment, machine)
    return environment


def test_libtpu_is_left_out_without_a_tpu(machine):
    assert chosen(machine) == CPU_ALONE
    assert chosen(machine, HOME="/root") == {"HOME": "/root"} | CPU_ALONE


@pytest.mark.parametrize("file", ["accel0", "vfio/0", "nvidia0", "nvidiactl", "dxg"])
def test_a_device_that_may_be_an_accelerator_leaves_the_choice_to_jax(machine, file):
    (machine / "dev" / file).touch()
    assert chosen(machine) == {}


def test_a_pci_device_of_google_leaves_the_choice_to_jax(machine):
    device = machine / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0"
    device.mkdir()
    (device / "vendor").write_text("0x1ae0\n")
    assert chosen(machine) == {}


@pytest.mark.parametrize(
    "name", ["JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_WORKER_HOSTNAMES", "TPU_LIBRARY_PATH"]
)
def test_what_the_environment_says_stays(machine, name):
    assert chosen(machine, **{name: "x"}) == {name: "x"}


def test_plugins_of_other_platforms_are_started(machine, monkeypatch):
    monkeypatch.setattr(absent_tpu, "entry_points", lambda group: ("xla_cuda12",))
    assert chosen(machine) == {}


def test_without_libtpu_nothing_is_set(machine, monkeypatch):
    monkeypatch.setattr(absent_tpu.importlib.util, "find_spec", {}.get)
    assert chosen(machine) == {}


def test_a_mistake_of_the_user_is_the_only_line_of_infer():
    """The device starts in a thread before the command line is read."""
    skipped = ("JAX_PLATFORMS", "TPU_", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(skipped)}
    if absent_tpu.has_plugins() or absent_tpu.has_accelerator(Path("/")):
        pytest.skip("this machine has a GPU or a TPU, or JAX a plugin for one")
    done = subprocess.run(
        [sys.executable, "infer.py", "--input=absent.mp4"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == "infer.py: there is no file or folder absent.mp4\n"
