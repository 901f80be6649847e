"""train.py as a process: killed, stopped, resumed, watched; and every mistake as one line."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from media_clips import write_clip
from PIL import Image

from skipsr_jax import Upscaler
from skipsr_jax.checkpoints import store
from skipsr_jax.cli import train
from skipsr_jax.files import is_temporary
from skipsr_jax.models.params import flatten, nbytes

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 14
PATIENCE = 600
"""Seconds until a process that does nothing counts as stuck."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_clip(root / "a.mp4", frames=9, height=48, width=64)
    return root


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiled programs, shared by the processes of this file."""
    return tmp_path_factory.mktemp("compiled")


def sr_arguments(clips, workdir):
    """Stage sr of the tiny model on the shipped autoencoder, as small as it goes."""
    return [
        f"--config={ROOT}/configs/tiny_sr.py",
        f"--workdir={workdir}",
        f"--config.vae={ROOT}/checkpoints/tiny",
        f"--config.data.root=('{clips}',)",
        "--config.dtype=float32",
        "--config.data.cache=",
        "--config.data.workers=0",
        "--config.data.batch=2",
        "--config.data.frames=5",
        "--config.data.crop=(32, 48)",
        "--config.loss.pixel_weight=0.0",
        "--config.loss.dense_share=0.5",
        f"--config.loop.steps={STEPS}",
        "--config.loop.max_seconds=0.0",
        "--config.loop.log_every=1",
        "--config.loop.save_every=3",
    ]


def start(arguments, compiled):
    """The process, on one CPU device."""
    # Little optimisation: compiling takes longer than running here.
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, ROOT / "train.py", *arguments, f"--compile_cache_dir={compiled}"]
    return subprocess.Popen(
        command,
        env=os.environ | settings,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Exit status and what was said."""
    said = process.communicate(timeout=PATIENCE)
    return process.returncode, "".join(said)


def losses(workdir):
    """Step -> loss, as far as metrics.jsonl goes."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {line["step"]: line["loss"] for line in found if "loss" in line}


def wait_for(process, workdir, step):
    """Until a step is logged and a checkpoint before it is complete."""
    began = time.monotonic()
    while max(losses(workdir), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_and_stopped_it_repeats_an_uninterrupted_run(clips, compiled, tmp_path):
    status, said = finish(start(sr_arguments(clips, tmp_path / "whole"), compiled))
    assert status == 0, said
    want = losses(tmp_path / "whole")
    assert list(want) == list(range(1, STEPS + 1))

    tmp_path = tmp_path / "part"
    process = start(sr_arguments(clips, tmp_path), compiled)
    wait_for(process, tmp_path, 5)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    complete = store.step_folder(tmp_path)
    noted = json.loads((tmp_path / "goodput.json").read_text())["steps"]
    lost = noted - store.load_config(tmp_path)["goodput_seconds"]["steps"]
    assert lost > 0
    half = tmp_path / "checkpoints" / str(STEPS - 1) / "state"  # as if killed in mid-copy
    half.mkdir(parents=True)

    process = start(sr_arguments(clips, tmp_path), compiled)
    wait_for(process, tmp_path, int(complete.name) + 4)
    process.terminate()
    status, said = finish(process)
    assert status == 0, said
    assert f"set aside as {STEPS - 1}.incomplete" in said
    assert f"resumed after step {complete.name}" in said
    stopped = int(store.step_folder(tmp_path).name)
    assert f"SIGTERM: saved after step {stopped}" in said
    assert max(losses(tmp_path)) == stopped < STEPS

    status, said = finish(start(sr_arguments(clips, tmp_path), compiled))
    assert status == 0 and f"resumed after step {stopped}" in said, said
    got = losses(tmp_path)
    assert list(got) == list(want)
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-4, atol=0)
    spent = json.loads((tmp_path / "goodput.json").read_text())
    assert spent["redo"] >= lost
    assert min(spent[kind] for kind in ("steps", "start", "compile", "data", "save")) > 0
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    others = [value for name, value in last.items() if name.startswith("badput/")]
    assert last["goodput_percent"] + sum(others) == pytest.approx(100)


def adapter_arguments(clips, workdir, steps):
    """An adapter of the shipped tiny transformer, fine-tuned to one clip."""
    return [
        f"--config={ROOT}/configs/tiny_lora_sr.py",
        f"--workdir={workdir}",
        f"--config.init_from={ROOT}/checkpoints/tiny",
        f"--config.vae={ROOT}/checkpoints/tiny",
        f"--config.data.root=('{clips}',)",
        "--config.data.workers=0",
        "--config.data.frames=5",
        "--config.data.crop=(48, 64)",
        "--config.data.pan_share=0.0",
        "--config.loss.pixel_weight=0.0",
        "--config.loss.dense_share=1.0",
        "--config.loss.random_drop=0.0",
        "--config.optimizer.learning_rate=0.005",
        f"--config.loop.steps={steps}",
        "--config.loop.log_every=1",
        "--config.loop.save_every=10",
    ]


@pytest.mark.slow
def test_an_adapter_is_tuned_to_a_clip_killed_resumed_and_merged(clips, compiled, tmp_path):
    workdir, steps = tmp_path / "lora", 40
    process = start(adapter_arguments(clips, workdir, steps), compiled)
    wait_for(process, workdir, 15)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    status, said = finish(start(adapter_arguments(clips, workdir, steps), compiled))
    assert status == 0 and "resumed after step" in said, said
    found = losses(workdir)
    assert list(found) == list(range(1, steps + 1))
    first, last = (np.mean([found[i] for i in part]) for part in (range(1, 6), range(36, 41)))
    assert last < 0.8 * first, found

    held = flatten(store.restore_host(workdir))
    assert held and all("/lora/" in path for path in held)
    size = sum(x.nbytes for x in held.values())
    assert size < 2**21 < nbytes(store.stored_shapes(ROOT / "checkpoints/tiny", branch="params"))
    clip = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3), np.uint8)
    made = [
        Upscaler("tiny", adapter=adapter, coder="full", mask={"source": "none"}).upscale(clip)
        for adapter in (None, workdir)
    ]
    assert made[0].shape == made[1].shape and (made[0] != made[1]).any()


@pytest.mark.slow
def test_a_run_leaves_measures_pictures_and_a_trace(clips, compiled, tmp_path):
    more = [
        f"--config.data.eval_root=('{clips}',)",
        "--config.data.eval_frames=5",
        "--config.data.eval_crop=(32, 48)",
        f"--config.loop.panel_every={STEPS}",
        f"--config.loop.quality_every={STEPS}",
        "--profile_steps=2:3",
    ]
    status, said = finish(start(sr_arguments(clips, tmp_path) + more, compiled))
    assert status == 0, said
    workdir = tmp_path
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if line["step"] == STEPS)
    for name in ("loss", "grad_norm", "step_seconds", "samples_per_second", "data_seconds"):
        assert np.isfinite(step[name])
    assert step["tokens_per_second"] > 0 and 0 <= step["skip_percent"] < 100
    assert step["tflops_per_second"] > 0
    assert "mfu_percent" not in step and "memory_gib" not in step  # a CPU tells neither
    assert "step_seconds" not in lines[0]  # the first step compiles

    quality = next(line for line in lines if "quality/clips/psnr_dense" in line)
    assert quality["step"] == STEPS
    for column in ("bicubic", "skipped", "dense"):
        assert quality[f"quality/clips/psnr_{column}"] > 20
        assert 0 < quality[f"quality/clips/ssim_{column}"] <= 1
    assert quality["quality/clips/skip_oracle"] == 1  # a smooth clip
    assert quality["quality/clips/skip"] == pytest.approx(11 / 12)  # a plan has to keep one

    pictures = sorted(workdir.glob("samples/*.png"))
    assert pictures and not any(is_temporary(path) for path in workdir.rglob("*"))
    assert Image.open(pictures[0]).size == (5 * 48, 32)
    assert list(workdir.glob("profile/**/*.xplane.pb")), said


def run(*arguments):
    return train.main(["train.py", *map(str, arguments)])


@pytest.fixture
def mistake(capsys, monkeypatch):
    """Runs train.py in this process; it has to fail with one line, which is returned."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # pytest has set up logging
    # Another test's run of the program may have left a handler on its own, closed, stderr.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])

    def of(*arguments):
        assert run(*arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("train.py: ") and said.count("\n") == 1, said
        return said

    return of


def test_every_mistake_is_one_line(clips, tmp_path, mistake):
    workdir = tmp_path / "run"
    good = [*sr_arguments(clips, workdir), "--config.data.batch=8"]
    assert "did you mean data.crop" in mistake(*good, "--config.data.crpo=(32, 48)")
    assert "frames is 6" in mistake(*good, "--config.data.frames=6")
    assert "not found" in mistake(*good, f"--config.data.root=('{tmp_path}/absent',)")
    assert "no such checkpoint" in mistake(*good, f"--config.vae={tmp_path}/absent")
    assert "set --config.vae" in mistake(*good, "--config.vae=")
    for wrong in ("10", "5:5", "a:b", "15:10"):
        assert "--profile_steps" in mistake(*good, f"--profile_steps={wrong}")
    assert "data.eval_root" in mistake(*good, "--config.loop.quality_every=5")
    assert "--workdir" in mistake(good[0])


def test_a_workdir_of_another_run_is_refused(clips, tmp_path, mistake):
    (tmp_path / "config.json").write_text('{"stage": "vae", "model": "tiny"}')
    good = [*sr_arguments(clips, tmp_path), "--config.data.batch=8"]
    assert "stage 'vae', not 'sr'" in mistake(*good)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == '{"stage": "vae", "model": "tiny"}'
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in mistake(*good)


def test_help_without_a_config_explains_all_stages(capsys):
    with pytest.raises(SystemExit) as left:
        train.main(["train.py", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for words in ("--workdir", "tiny_vae ", "--config.loop.steps=20000", "optimizer steps of the",
                  "entries of stage coder:", "--config.loss.kl=", "weight of the KL"):  # fmt: skip
        assert words in said
    assert "\n  tiny  " not in said
    assert said.count("--config.loop.save_every=") == 1


def test_the_hint_of_a_cpu_leaves_out_what_is_given():
    argv = ["train.py", "--config=tiny_vae", "--config.data.batch=2"]
    assert train.cpu_hint(argv).endswith("add --config.loop.steps=2 --config.data.frames=5")
    argv += ["--config.loop.steps=9", "--config.data.frames", "5"]
    assert train.cpu_hint(argv).endswith("may take minutes")


def test_a_run_without_a_config_is_refused(capsys):
    assert train.main(["train.py", "--workdir=run"]) == 1
    assert "--config is missing" in capsys.readouterr().err


@pytest.mark.parametrize("theirs", [None, *train.GPU_MEMORY_VARIABLES])
def test_the_share_of_a_gpu_is_set_unless_the_environment_says(theirs, tmp_path, monkeypatch):
    """JAX refuses both names together."""
    for name in train.GPU_MEMORY_VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    if theirs:
        monkeypatch.setenv(theirs, "0.5")
    seen = {}

    def join(values):
        seen.update({name: os.environ.get(name) for name in train.GPU_MEMORY_VARIABLES})
        raise InterruptedError

    monkeypatch.setattr(train.hosts, "join", join)
    with pytest.raises(InterruptedError):
        train.run(["train.py", "--config=tiny_vae", f"--workdir={tmp_path}"])
    given = {theirs: "0.5"} if theirs else {train.GPU_MEMORY_VARIABLES[0]: train.GPU_MEMORY}
    assert {name: value for name, value in seen.items() if value} == given
