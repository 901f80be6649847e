"""Stage ``coder`` at the smallest size: it learns, resumes, and is the same on any mesh."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from flax import nnx
from small_training import DIT_CONFIG, QUICK, VAE_CONFIG, random_autoencoder, write_pictures

from skipsr_jax.checkpoints import store
from skipsr_jax.config import to_json
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.layers.rearrange import depth_to_space, depth_to_time
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import abstract, bind, flatten, to_dict
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training import loop as loop_module
from skipsr_jax.training.light_coder import (
    CoderNetworks,
    DecoderInputs,
    latent_error,
    with_equal_frames,
)
from skipsr_jax.training.loop import train
from skipsr_jax.training.losses.decoded import DecodedClips
from skipsr_jax.training.losses.reconstruction import decode
from skipsr_jax.training.mesh_checks import fit_to_mesh
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stages import coder
from skipsr_jax.training.stages.coder import CoderLoss
from skipsr_jax.training.step import fresh_state, make_step, on_devices
from skipsr_jax.training.transformer import abstract_dit, fresh_params, load_transformer

CONFIG = LightCoderConfig((8, 8, 8), (1, 1, 1), (8, 8, 8), (1, 1, 1))
RATE = np.float32(5e-3)
TOKENS = {"text_lengths": (3, 2), "dense_share": 0.0, "random_drop": 0.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def transformer():
    made = jax.jit(lambda key: fresh_params(key, DIT_CONFIG, (3, 2)), compiler_options=QUICK)(
        jax.random.key(1)
    )
    return abstract_dit(DIT_CONFIG, np.float32), made


def settings_for(root, loss, loop=None, **data):
    data = Data(**({"root": (str(root),), "batch": 2, "frames": 5, "crop": (32, 48), "workers": 0,
                    "pan_share": 1.0} | data))  # fmt: skip
    optimizer = Optimizer(float(RATE), warmup_steps=1)
    return Settings("coder", data, optimizer, loop or Loop(20), loss)


def stage_for(settings, transformer=None):
    return coder.make(settings, CONFIG, random_autoencoder(), transformer)


def learn(stage, settings, steps=20):
    """Metrics of each step on the first batch, and the last state."""
    batch = batches(find_sources(settings.data.root), stage.recipe)[0]
    fresh = jax.jit(lambda key: fresh_state(stage, settings.optimizer, key), compiler_options=QUICK)
    state, seen = fresh(jax.random.key(0)), []
    step = jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK)
    for _ in range(steps):
        state, metrics = step(state, stage.frozen, batch, RATE)
        seen.append(jax.device_get(metrics))
    assert all(m["nonfinite"] == 0 for m in seen)
    return seen, state, batch


def mean(seen, name):
    return float(np.mean([m[name] for m in seen]))


def preview(stage, state, batch):
    mask = batch.mask or (np.ones((2, 2, 2, 3), bool),)
    show = jax.jit(stage.preview, compiler_options=QUICK)
    batch = jax.device_put(batch._replace(mask=mask))
    return show(state["ema"], stage.frozen, batch, jax.random.key(1))


@pytest.mark.slow
def test_both_halves_learn_a_batch(root):
    settings = settings_for(root, CoderLoss(teacher=0.0, temporal=0.0))
    stage = stage_for(settings)
    seen, state, batch = learn(stage, settings)
    assert seen[0]["latent_truth"] == pytest.approx(1, abs=0.1)  # the encoder begins with zeros
    for name in ("latent_truth", "latent_input", "loss"):
        assert mean(seen[-3:], name) < 0.9 * mean(seen[:1], name), name
    assert mean(seen[-3:], "charbonnier") < mean(seen[:1], "charbonnier")
    assert state["params"].keys() == state["ema"].keys() == {"light_coder"}
    assert stage.flops(batch) > 0 and stage.config.keys() == {"light_coder"}


def test_the_latent_error_is_relative_to_the_variance():
    rng = np.random.default_rng(0)
    wanted = tuple(3 + 2 * rng.normal(size=(2, t, 4, 6, 16)).astype(np.float32) for t in (1, 3))
    right, total = wanted, np.concatenate([x.ravel() for x in wanted])
    mean_of_all = tuple(np.full_like(x, total.mean()) for x in wanted)
    own, full = jax.tree.map(jax.numpy.asarray, ((mean_of_all, right), (wanted, wanted)))
    error, metrics = latent_error(own, full)
    assert float(metrics["latent_truth"]) == pytest.approx(1, rel=1e-4)
    assert float(metrics["latent_input"]) == 0 and float(error) == pytest.approx(0.5, rel=1e-4)


def test_the_latents_effect_is_zero_where_frames_do_not_depend_on_them():
    light = abstract(lambda rngs: LightCoder(CONFIG, rngs=rngs))
    params = to_dict(LightCoder(CONFIG, rngs=nnx.Rngs(0)))
    decoder = params["decoder"]
    kernel = jax.random.normal(jax.random.key(0), decoder["conv_out"]["kernel"].shape)
    decoder["conv_out"]["kernel"] = 0.1 * kernel
    networks = CoderNetworks(DecoderInputs(), light, random_autoencoder()[0], None)
    rng = np.random.default_rng(0)
    latents = jax.numpy.asarray(rng.normal(size=(2, 2, 4, 6, 16)), np.float32)
    upscaled = jax.numpy.asarray(rng.uniform(-1, 1, (2, 5, 32, 48, 3)), np.float32)
    scaled = latents / light.config.scaling_factor

    def effect(decoder):
        coder = params | {"decoder": decoder}
        frames = decode(bind(light, coder), scaled, upscaled)
        kept = jax.numpy.ones((2, 5, 32, 48, 1), bool)
        clips = [DecodedClips(frames, frames, upscaled, kept, latents)]
        return float(networks.latent_effect({"light_coder": coder}, clips)["latent_effect"])

    assert 0.02 < effect(decoder) < 10
    nothing = jax.tree.map(jax.numpy.zeros_like, decoder["conv_in"])
    assert effect(decoder | {"conv_in": nothing}) == 0
    nothing = jax.tree.map(jax.numpy.zeros_like, decoder["conv_out"])
    assert effect(decoder | {"conv_out": nothing}) == 0


def test_a_run_begins_with_equal_frames():
    """Of a still input, both frames that a frame of the 1/4 level becomes are the same."""
    rng = np.random.default_rng(0)
    kernel, bias, x = (
        rng.normal(size=size).astype(np.float32) for size in ((1, 1, 6, 40), (40,), (1, 1, 2, 3, 6))
    )

    def both_frames(to_half):
        y = jax.numpy.asarray(x @ to_half["kernel"][0, 0] + to_half["bias"])
        return np.asarray(depth_to_time(depth_to_space(y, 2), 2)[0])

    apart = {"kernel": jax.numpy.asarray(kernel), "bias": jax.numpy.asarray(bias)}
    begun = with_equal_frames({"encoder": {}, "decoder": {"to_half": apart, "conv_in": {}}})
    first, second = both_frames(begun["decoder"]["to_half"])
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first, both_frames(apart).mean(axis=0), atol=1e-5)
    assert begun.keys() == {"encoder", "decoder"} and "conv_in" in begun["decoder"]


@pytest.mark.slow
def test_a_discriminator_that_no_checkpoint_of_the_model_has(root):
    settings = settings_for(root, CoderLoss(adversarial=0.1))
    stage = stage_for(settings)
    seen, state, batch = learn(stage, settings)
    assert mean(seen[-3:], "discriminator") < mean(seen[:1], "discriminator")
    assert {"adversarial", "penalty", "logit_fake"} <= seen[0].keys()
    assert state["ema"].keys() == {"light_coder"}
    assert state["params"].keys() == {"light_coder", "discriminator"}
    shown = preview(stage, state, batch)
    assert [x.shape for x in shown.frames] == [x.shape for x in batch.hr]


@pytest.mark.slow
def test_the_decoder_learns_what_a_frozen_transformer_makes(root, transformer):
    settings = settings_for(root, CoderLoss(own_share=1.0, **TOKENS))
    stage = stage_for(settings, transformer)
    seen, state, batch = learn(stage, settings)
    assert mean(seen[-3:], "loss") < 0.9 * mean(seen[:1], "loss")
    assert state["params"].keys() == {"light_coder"}
    assert stage.frozen.keys() == {"vae", "dit", "text"} and "generator" in stage.config
    shown = preview(stage, state, batch)
    np.testing.assert_array_equal(shown.keep[0], batch.mask[0])


@pytest.mark.slow
def test_joint_trains_the_transformer_too(root, transformer):
    settings = settings_for(root, CoderLoss(joint=True, train_text=False, **TOKENS))
    stage = stage_for(settings, transformer)
    seen, state, _ = learn(stage, settings, 3)
    before = flatten(jax.jit(stage.init, compiler_options=QUICK)(jax.random.key(0)))
    after = flatten(state["params"])
    unchanged = {path for path in before if np.array_equal(before[path], after[path])}
    assert stage.fixed <= unchanged
    assert not any(path.startswith("dit/vid_out") for path in unchanged)
    assert {"dit", "light_coder"} == stage.config.keys() and "psnr_kept" in seen[0]


@pytest.mark.slow
def test_joint_in_pixels_alone_needs_no_full_autoencoder(root, transformer):
    loss = CoderLoss(joint=True, own_share=1.0, latent=0.0, teacher=0.0, **TOKENS)
    settings = settings_for(root, loss)
    stage, whole = stage_for(settings, transformer), dataclasses.replace(loss, latent=1e-9)
    whole = stage_for(settings_for(root, whole), transformer)
    assert stage.frozen == {} and stage.prepare is None
    seen, state, batch = learn(stage, settings, 3)
    wanted, *_ = learn(whole, settings, 3)
    for found, full in zip(seen, wanted, strict=True):
        assert found["psnr"] == pytest.approx(full["psnr"], rel=1e-4)
    assert "latent_truth" in wanted[0] and "latent_truth" not in seen[0]
    assert 0 < stage.flops(batch) < whole.flops(batch)
    preview(stage, state, batch)


def test_what_cannot_be_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"generator.*empty with joint"):
        CoderLoss(joint=True, generator="somewhere")
    with pytest.raises(ValueError, match="at least 0"):
        CoderLoss(temporal=-1.0)
    settings = settings_for(root, CoderLoss())
    with pytest.raises(UserError, match=r"--config\.vae"):
        coder.make(settings, CONFIG)
    other = dataclasses.replace(CONFIG, latent_channels=4)
    with pytest.raises(UserError, match=r"latent_channels 16, the light coder .* has 4"):
        coder.make(settings, other, random_autoencoder())
    store.save_model(tmp_path / "vae", random_autoencoder()[1], {"vae": to_json(VAE_CONFIG)})
    with pytest.raises(UserError, match="holds no transformer"):
        load_transformer(str(tmp_path / "vae"), np.float32)


@pytest.mark.slow
def test_a_stored_transformer_comes_back(transformer, tmp_path):
    module, params = transformer
    store.save_model(tmp_path / "model", params, {"dit": to_json(DIT_CONFIG)})
    found, loaded = load_transformer(str(tmp_path / "model"), np.float32)
    assert found.config == module.config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.slow
def test_a_stopped_run_repeats_an_uninterrupted_one(root, tmp_path, monkeypatch):
    loop = Loop(4, log_every=1, save_every=2)
    loss = CoderLoss(teacher=0.0)
    settings = settings_for(root, loss, loop, batch=8, frames=1, crop=(16, 16))
    assert train(settings, stage_for(settings), str(tmp_path / "whole")) == 4

    class Interrupting(loop_module.MetricWriter):
        def write(self, step, metrics):
            super().write(step, metrics)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "MetricWriter", Interrupting)
        assert train(settings, stage_for(settings), str(tmp_path / "part")) in (2, 3)
    assert train(settings, stage_for(settings), str(tmp_path / "part")) == 4
    for branch in ("params", "ema"):
        whole, part = (store.restore_host(tmp_path / d, branch=branch) for d in ("whole", "part"))
        jax.tree.map(np.testing.assert_array_equal, whole, part)


def without_zeros(params):
    """Behind a layer of zeros a gradient is rounding error, which Adam makes a whole step."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), params)


@pytest.mark.slow
def test_two_steps_on_a_mesh_are_those_of_one_device(root, transformer):
    loss = CoderLoss(teacher=0.0, **TOKENS)
    settings = settings_for(root, loss, batch=4, frames=1, crop=(16, 32))
    found = {}
    for sizes in ((1, 1, 1), (2, 2, 1)):
        mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        stage = fit_to_mesh(stage_for(settings, transformer), settings, mesh)
        dataset = batches(find_sources(settings.data.root), stage.recipe)
        fresh = jax.jit(
            lambda key, stage=stage: fresh_state(stage, settings.optimizer, key),
            compiler_options=QUICK,
        )(jax.random.key(0))
        fresh["params"] = without_zeros(fresh["params"])
        with jax.set_mesh(mesh):
            state = jax.device_put(fresh, shardings(fresh, mesh))
            frozen = jax.device_put(stage.frozen, shardings(stage.frozen, mesh))
            step = jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK)
            losses = []
            for number in range(2):
                state, metrics = step(state, frozen, on_devices(dataset[number], mesh), RATE)
                losses.append(float(metrics["loss"]))
            found[sizes] = losses, flatten(jax.device_get(state["params"]))
    (want, wanted), (got, params) = found.values()
    np.testing.assert_allclose(got, want, rtol=2e-4)
    for path in wanted:
        assert np.abs(params[path] - wanted[path]).mean() < 1e-4, path
