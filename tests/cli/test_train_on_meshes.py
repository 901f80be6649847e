"""train.py on meshes: on two hosts, stopped, and on one; mistakes in a mesh as one line."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from skipsr_jax.checkpoints import store
from skipsr_jax.cli import train
from skipsr_jax.config import to_json
from skipsr_jax.models.params import abstract, flatten, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
VAE_CONFIG = VAEConfig((4, 4, 4, 4), layers_per_block=1, norm_groups=2)
STEPS, STOPPED_AFTER, DEADLINE = 24, 5, 1200  # steps, steps, seconds


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    shapes = to_dict(abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("vae") / "model"
    store.save_model(path, {"vae": params}, {"vae": to_json(VAE_CONFIG)})
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in "abcdefghijkl":
        noise = rng.integers(0, 255, (48, 48, 3), np.uint8)
        noise[:24] = rng.integers(0, 255)
        Image.fromarray(noise).save(root / f"{name}.png")
    return root


def arguments(stage, vae, pictures, workdir, *more, crop="(32,32)"):
    return [
        f"--config={ROOT}/configs/tiny_{stage}.py",
        f"--workdir={workdir}",
        f"--config.vae={vae}",
        f"--config.data.root=('{pictures}',)",
        "--config.data.cache=",
        "--config.data.workers=0",
        "--config.data.batch=8",
        "--config.data.frames=1",
        f"--config.data.crop={crop}",
        "--config.data.pan_share=1.0",
        "--config.dtype=float32",
        f"--config.loop.steps={STEPS}",
        "--config.loop.max_seconds=0",
        "--config.loop.log_every=1",
        *more,
    ]


def start(devices, *given):
    """train.py as a process with that many virtual devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    command = [sys.executable, str(ROOT / "train.py"), *given]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def start_hosts(devices, *given):
    """train.py as two processes of one run, each a host with that many virtual devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = ("--distributed", f"--coordinator={address}", "--num_processes=2")
    return [start(devices, *given, *together, f"--process_id={number}") for number in range(2)]


def finish(process):
    said = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode == 0, said
    return said


def losses(workdir):
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.slow
def test_two_hosts_are_stopped_and_one_goes_on(vae, pictures, tmp_path):
    """The loss of every step is that of an uninterrupted run on one host: it is the mean over a
    batch of which each host read its half, so each sample was read once, in its place."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    given = ("predictor", vae, pictures)
    both = ("--config.loss.space=latent", "--config.optimizer.warmup_steps=2")
    alone = start(8, *arguments(*given, whole, "--config.mesh.fsdp=2", *both))
    hosts = start_hosts(4, *arguments(*given, part, "--config.mesh.fsdp=2", *both))
    try:
        end = time.monotonic() + DEADLINE
        while len(losses(part)) < STOPPED_AFTER and time.monotonic() < end:
            assert all(host.poll() is None for host in hosts), hosts[0].communicate()[1]
            time.sleep(0.01)
        hosts[1].send_signal(signal.SIGTERM)  # one host is told, both stop
        assert ["SIGTERM: saved" in finish(host) for host in hosts] == [True, True]
        stopped = len(losses(part))
        assert STOPPED_AFTER <= stopped < STEPS
        finish(start(2, *arguments(*given, part, "--config.mesh.seq=2", *both)))
        finish(alone)
    finally:
        for process in (alone, *hosts):
            process.kill()
    want, got = losses(whole), losses(part)
    assert list(got) == list(want) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=2e-3)
    assert len(set(want.values())) == STEPS


@pytest.mark.slow
def test_two_slices_on_two_hosts_train_as_one_device(vae, pictures, tmp_path):
    """Stage sr with each host as a slice: data between the two, fsdp inside. The losses are those
    of one device, which gradients and the sum over slices have gone into from the second step on,
    and so are the parameters."""
    steps = 4
    more = (
        f"--config.loop.steps={steps}",
        "--config.loss.pixel_weight=0.0",
        "--config.loss.one_step_share=0.5",
        "--config.optimizer.warmup_steps=0",
    )
    mesh = ("--config.mesh.slices=2", "--config.mesh.data=2", "--config.mesh.fsdp=2")
    one, two = tmp_path / "one", tmp_path / "two"
    processes = [start(1, *arguments("sr", vae, pictures, one, *more))]
    try:
        finish(processes[0])
        processes += start_hosts(2, *arguments("sr", vae, pictures, two, *more, *mesh))
        for process in processes[1:]:
            finish(process)
    finally:
        for process in processes:
            process.kill()
    want, got = losses(one), losses(two)
    assert list(got) == list(want) == list(range(1, steps + 1))
    assert len(set(want.values())) == steps
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-4)
    first, second = (
        flatten(store.restore_host(workdir, branch="params")) for workdir in (one, two)
    )
    assert first.keys() == second.keys()
    for path, value in first.items():
        np.testing.assert_allclose(second[path], value, rtol=0, atol=2e-4, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--config.mesh.seq=8", "(64,64)"], "4 heads do not divide over a mesh of 8 devices"),
        (["--config.mesh.data=3"], "a mesh of data 3, fsdp 1, seq 1 does not use the 8 devices"),
        (["--config.mesh.data=-1", "--config.mesh.fsdp=-1"], "-1 for one of them"),
        (["--config.data.batch=12"], "data.batch is 12: it must be a multiple"),
        (["--config.mesh.seq=8"], "a sequence of data.batch has 4 tokens"),
        (["--coordinator=a:1"], "--coordinator is for several hosts: add --distributed"),
        (["--distributed", "--process_id=0"], "--process_id needs --coordinator and"),
        (
            ["--distributed", "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id is 2: it must be from 0 to 1",
        ),
    ],
)
def test_mistakes_in_the_mesh_are_one_line(changes, says, vae, pictures, tmp_path, capsys):
    flags = [change for change in changes if change.startswith("-")]
    crop = next((change for change in changes if change.startswith("(")), "(32,32)")
    given = arguments("sr", vae, pictures, tmp_path / "run", *flags, crop=crop)
    assert train.main(["train.py", *given]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train.py: ") and says in line
    assert not (tmp_path / "run").exists()
