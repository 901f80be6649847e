"""The whole ladder of the small model by its configs, a few steps a stage, with tiny networks."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

from skipsr_jax.checkpoints import export, store
from skipsr_jax.cli import train
from skipsr_jax.models import presets
from skipsr_jax.models.light_coder import LightCoderConfig
from skipsr_jax.models.params import flatten
from skipsr_jax.models.vae import VAEConfig
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.training import loop

VAE = VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_groups=4, residual_decoder=True)
LIGHT = LightCoderConfig((4, 4, 8), (1, 1, 1), (4, 4, 8), (1, 1, 1))
DIT = dataclasses.replace(
    presets.DIT_PRESETS["small"], width=64, heads=2, head_dim=24, rope_dim=24, layers=3
)


@pytest.fixture
def shrunk(monkeypatch):
    """Networks that compile in seconds in place of the small model's, on one device."""
    one = functools.partial(make_mesh, 1, 1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", lambda **sizes: one())
    for presets_of, config in (
        (presets.DIT_PRESETS, DIT), (presets.LIGHT_CODER_PRESETS, LIGHT)
    ):  # fmt: skip
        monkeypatch.setitem(presets_of, "small", config)
    monkeypatch.setitem(presets.VAE_PRESETS, "tiny", VAE)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name in "abc":
        coarse = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_each_stage_takes_what_the_one_before_left(shrunk, pictures, tmp_path, capsys):
    runs = tmp_path / "runs"

    def stage(config, run, *more, steps=2):
        argv = [
            "train.py", f"--config={config}", f"--workdir={runs / run}",
            f"--config.data.root=('{pictures}',)", "--config.data.cache=",
            "--config.data.workers=0",
            "--config.data.batch=2", "--config.data.frames=5", "--config.data.crop=(48,48)",
            "--config.data.pan_share=1.0", f"--config.loop.steps={steps}",
            "--config.loop.max_seconds=0", "--config.dtype=float32",
            *[f"--config.{entry}" for entry in more],
        ]  # fmt: skip
        assert train.main(argv) == 0, capsys.readouterr().err
        assert store.step_folder(runs / run).name == str(steps)
        return store.restore_host(runs / run, branch=store.best_branch(runs / run))

    of_vae, packs = f"vae={runs / 'vae'}", "loss.pixel_samples=1"
    stage("tiny_vae", "vae", steps=1)
    stage("tiny_vae", "vae")  # goes on
    stage("small_predictor", "predictor")
    sr = stage("small_sr", "sr", of_vae, packs, "init_from=")
    stage("small_coder", "coder", of_vae, "init_from=")
    schedule = "loss.schedule=((2,1),(1,1))"
    distilled = stage("small_distill", "distill", of_vae, f"init_from={runs / 'sr'}", schedule)
    assert flatten(distilled).keys() == flatten(sr).keys()  # neither teacher nor phase
    init = f"init_from={runs / 'distill'}"
    stage("small_adversarial", "adversarial", of_vae, init, packs, "loss.depths=(1,3)")

    both = tmp_path / "both"
    parts = {"dit": str(runs / "adversarial"), "light_coder": str(runs / "coder")}
    export.merge(str(both), parts, ema=True)
    merged = store.restore_host(both)
    assert merged.keys() >= {"dit", "light_coder"}
