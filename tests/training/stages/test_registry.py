"""Every stage learns one fixed batch, at the smallest size of its networks."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from small_training import DIT_CONFIG, QUICK, VAE_CONFIG, write_pictures

from skipsr_jax.checkpoints import store
from skipsr_jax.config import to_json
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten, to_dict
from skipsr_jax.models.predictor import PredictorConfig
from skipsr_jax.models.vae import VAE
from skipsr_jax.training import pixels
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stages import predictor, sr, vae
from skipsr_jax.training.step import fresh_state, make_evaluation, make_step


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "model"
    params = {"vae": to_dict(VAE(VAE_CONFIG, rngs=nnx.Rngs(0)))}
    store.save_model(path, params, {"vae": to_json(VAE_CONFIG)})
    return path


def settings_for(stage, loss, root, rate, autoencoder=""):
    data = Data(root=(str(root),), batch=2, frames=5, crop=(32, 48), pan_share=1.0)
    optimizer = Optimizer(rate, warmup_steps=1)
    return Settings(stage, data, optimizer, Loop(20), loss, vae=str(autoencoder))


def learn(stage, settings, steps):
    """Metrics of each step on the first batch, and the last state."""
    batch = batches(find_sources(settings.data.root), stage.recipe)[0]
    start = jax.jit(lambda key: fresh_state(stage, settings.optimizer, key), compiler_options=QUICK)
    state = start(jax.random.key(0))
    step = jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK)
    seen, rate = [], np.float32(settings.optimizer.learning_rate)
    for _ in range(steps):
        state, metrics = step(state, stage.frozen, batch, rate)
        seen.append(jax.device_get(metrics))
    assert all(m["nonfinite"] == 0 for m in seen)
    return seen, state


def mean_loss(seen):
    return float(np.mean([m["loss"] for m in seen]))


def small_vae_stage(root, config):
    settings = settings_for("vae", vae.VaeLoss(low_quality_share=0.0), root, 5e-3)
    data = dataclasses.replace(settings.data, crop=(16, 16))
    settings = dataclasses.replace(settings, data=data)
    return vae.make(settings, config), settings


@pytest.mark.slow
def test_vae_learns_a_batch(root):
    stage, settings = small_vae_stage(root, dataclasses.replace(VAE_CONFIG, residual_decoder=False))
    seen, _ = learn(stage, settings, 20)
    assert mean_loss(seen[-3:]) < 0.8 * mean_loss(seen[:3])


@pytest.mark.slow
def test_a_residual_vae_begins_with_the_upscaled_input(root):
    stage, settings = small_vae_stage(root, VAE_CONFIG)
    batch = batches(find_sources(settings.data.root), stage.recipe)[0]
    evaluate = jax.jit(make_evaluation(stage, 0), compiler_options=QUICK)
    found = evaluate(stage.init(jax.random.key(0)), stage.frozen, batch)
    assert float(found["psnr"]) == pytest.approx(float(found["psnr_upscaled"]), abs=1e-3)


@pytest.mark.slow
def test_predictor_learns_a_batch(root, autoencoder):
    settings = settings_for("predictor", predictor.PredictorLoss(), root, 1e-2, autoencoder)
    stage = predictor.make(settings, PredictorConfig(width=16))
    seen, _ = learn(stage, settings, 30)
    assert mean_loss(seen[-3:]) < 0.5 * mean_loss(seen[:3])
    assert seen[-1]["f1"] > 0.85


def test_pixel_predictor_learns_a_batch_without_an_autoencoder(root, autoencoder):
    loss = predictor.PredictorLoss(space="pixels", regression=0.5)
    settings = settings_for("predictor", loss, root, 1e-2)
    stage = predictor.make(settings, PredictorConfig(width=8, filters=4))
    assert stage.frozen == {} and stage.config["predictor"]["space"] == "pixels"
    seen, _ = learn(stage, settings, 30)
    assert mean_loss(seen[-3:]) < 0.5 * mean_loss(seen[:3])
    assert seen[-1]["f1"] > 0.85
    assert seen[-1]["regression"] < 0.5 * seen[0]["regression"]
    with pytest.raises(UserError, match=r"leave config\.vae empty"):
        predictor.make(settings_for("predictor", loss, root, 1e-2, autoencoder))


def test_pixel_predictor_takes_inputs_of_any_factor(root):
    loss = predictor.PredictorLoss(space="pixels")
    settings = settings_for("predictor", loss, root, 1e-2)
    data = dataclasses.replace(settings.data, factors=((4.0, 1.0), (2.0, 1.0), (1.0, 1.0)))
    stage = predictor.make(
        dataclasses.replace(settings, data=data), PredictorConfig(width=8, filters=4)
    )
    dataset = batches(find_sources(settings.data.root), stage.recipe)
    key = jax.random.key(0)
    params, costs = jax.eval_shape(stage.init, key), {}
    for batch in (dataset[i] for i in range(3)):
        loss, _ = jax.eval_shape(stage.loss, params, stage.frozen, batch, key)
        assert loss.shape == ()
        costs[batch.lr[0].shape[2]] = stage.flops(batch)
    assert sorted(costs) == [8, 16, 32] and costs[8] < costs[16] < costs[32]


def test_regression_wants_the_logarithm_of_the_error():
    slope, tau = predictor.LOG_ERROR_OF_LOGIT, predictor.TAU
    logits, share = jax.numpy.array([-3.0, 0.0, 5.0]), jax.numpy.ones(3)
    right = tau * jax.numpy.exp(slope * logits)
    assert predictor.regression_loss(logits, right, share) < 1e-9
    off = predictor.regression_loss(logits, right * np.float32(np.exp(0.2)), share)
    assert off == pytest.approx(0.5 * 0.2**2, rel=1e-3)


def test_agreement_counts():
    logits, truth = jax.numpy.array([3.0, 2.0, -1.0, -2.0]), jax.numpy.array([1, 0, 1, 0], bool)
    found = predictor.agreement(logits, truth)
    assert found["precision"] == found["recall"] == found["f1"] == found["f1_skipped"] == 0.5
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["skip_percent"] == found["skip_percent_oracle"] == 50


@pytest.mark.slow
def test_sr_learns_a_batch_on_kept_tokens(root, autoencoder):
    loss = sr.SrLoss(
        one_step_share=0.5, pixel_samples=1, samples_per_pack=2, text_lengths=(3, 2),
        dense_share=0.0, condition_noise=0.05, shift=True, negative_share=0.5,
    )  # fmt: skip
    settings = settings_for("sr", loss, root, 1e-2, autoencoder)
    stage = sr.make(settings, DIT_CONFIG)
    seen, state = learn(stage, settings, 20)
    assert mean_loss(seen[-5:]) < 0.9 * mean_loss(seen[:1])
    assert 5 < seen[0]["skip_percent"] < 95
    assert {"psnr", "psnr_kept", "charbonnier", "velocity"} <= seen[0].keys()

    # Rotary frequencies belong to the parameters, and training leaves them alone.
    before = flatten(jax.jit(stage.init, compiler_options=QUICK)(jax.random.key(0)))
    after = flatten(state["params"])
    assert stage.fixed == {path for path in before if path.endswith("rope_freqs")} != set()
    for path in before:
        assert np.array_equal(before[path], after[path]) == (path in stage.fixed), path


def preview_of(stage, settings, params):
    """The stage's preview of its first batch, and that batch."""
    batch = jax.device_put(batches(find_sources(settings.data.root), stage.recipe)[0])
    show = jax.jit(stage.preview, compiler_options=QUICK)
    seen = show(params, stage.frozen, batch, jax.random.key(1))
    (frames,), (keep,) = seen
    assert frames.shape == batch.hr[0].shape
    assert keep.shape == batch.mask[0].shape and 0 < keep.mean() < 1
    given = pixels.unit(pixels.upscaled(batch.lr[0], batch.hr[0].shape[2:4]))
    kept = np.broadcast_to(pixels.patches_to_pixels(keep), frames.shape)
    np.testing.assert_array_equal(frames[~kept], given[~kept])
    return frames, keep, batch, kept, given


@pytest.mark.slow
def test_sr_shows_the_input_in_skipped_patches_and_its_own_work_in_kept_ones(root, autoencoder):
    loss = sr.SrLoss(samples_per_pack=2, dense_share=0.0, random_drop=0.0)
    settings = settings_for("sr", loss, root, 1e-2, autoencoder)
    stage = sr.make(settings, DIT_CONFIG)
    # An untrained residual decoder adds nothing; this one does.
    stage.frozen["vae"]["decoder"]["conv_out"]["bias"] += 1.0
    params = jax.jit(stage.init, compiler_options=QUICK)(jax.random.key(0))
    frames, keep, batch, kept, given = preview_of(stage, settings, params)
    np.testing.assert_array_equal(keep, batch.mask[0])
    assert np.abs(frames - given)[kept].mean() > 0.01


@pytest.mark.slow
def test_predictor_shows_what_its_own_mask_loses(root, autoencoder):
    settings = settings_for("predictor", predictor.PredictorLoss(), root, 1e-2, autoencoder)
    stage = predictor.make(settings, PredictorConfig(width=16))
    params = jax.jit(stage.init, compiler_options=QUICK)(jax.random.key(0))
    frames, keep, batch, kept, _ = preview_of(stage, settings, params)
    assert not np.array_equal(keep, batch.mask[0])
    np.testing.assert_allclose(frames[kept], (batch.hr[0] / 255.0)[kept], atol=1e-6)


def test_stages_that_need_an_autoencoder_say_so(root):
    settings = settings_for("sr", sr.SrLoss(), root, 1e-2)
    with pytest.raises(UserError, match=r"--config\.vae"):
        sr.make(settings, DIT_CONFIG)
