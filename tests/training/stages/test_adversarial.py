"""Adversarial post-training at the smallest size; the quick tests run on latents, without VAE."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_model import DIT_CONFIG, VAE_CONFIG
from small_training import QUICK, write_pictures

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.packing import Packing
from skipsr_jax.data.sample import Recipe
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import abstract, flatten, to_dict
from skipsr_jax.models.vae import VAE
from skipsr_jax.tokens.patches import patchify, unpatchify
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stage import Stage, Trainee
from skipsr_jax.training.stages import adversarial
from skipsr_jax.training.stages.adversarial import AdversarialLoss
from skipsr_jax.training.step import fresh_state, make_step

# All layers of one kind and one head: one stack to compile.
CONFIG = dataclasses.replace(DIT_CONFIG, mm_layers=0, output_modulation=True)
LOSS = AdversarialLoss(depths=(2,), text_lengths=(3, 2), samples_per_pack=2, dense_share=0.0)
RATE = np.float32(3e-3)
GRID = (2, 2, 3)


def autoencoder():
    params = jax.jit(lambda: to_dict(VAE(VAE_CONFIG, rngs=nnx.Rngs(0))), compiler_options=QUICK)()
    return abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs)), {"vae": params}


def settings_for(loss, root=".", **others):
    data = Data(root=(str(root),), batch=2, frames=5, crop=(32, 48), pan_share=1.0)
    optimizer = Optimizer(float(RATE), kind="rmsprop", b1=0.0, b2=0.9, clip_norm=0.0)
    return Settings("adversarial", data, optimizer, Loop(20), loss, **others)


def stage_of(loss):
    shapes = abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs))
    return adversarial.make(settings_for(loss), CONFIG, (shapes, {}))


@pytest.fixture(scope="module")
def batch():
    """Latents of two samples in one pack. Truth has a fine pattern that the input lacks."""
    rng = np.random.default_rng(0)
    low = rng.normal(size=(2, GRID[0], 2 * GRID[1], 2 * GRID[2], 16)).astype(np.float32)
    pattern = np.indices(low.shape[1:4]).sum(0) % 2 * 2.0 - 1.0
    clean = low + pattern[..., None].astype(np.float32)
    plan = build_plan(list(rng.random((2, *GRID)) < 0.6), [3, 2])
    negative = np.array([[False, True]])
    batch = Batch(hr_latents=(clean,), lr_latents=(low,), plan=plan, negative=negative)
    return jax.tree.map(jnp.asarray, batch)


class Side:
    """One trainee alone, with a compiled step on latents."""

    def __init__(self, name, loss, trains):
        def of_latents(params, frozen, batch, key):
            return loss(params, batch, key)[:2]

        whole = stage_of(LOSS)
        recipe = Recipe(ClipShape(2, 5, 32, 48), None, packing=Packing(samples=2))
        self.stage = Stage(
            whole.init, of_latents, {}, whole.fixed, recipe, {},
            trainees=(Trainee(name, trains, of_latents),), begin=whole.begin,
        )  # fmt: skip
        self.optimizer = settings_for(LOSS).optimizer
        self.step = jax.jit(make_step(self.stage, self.optimizer, 0), compiler_options=QUICK)

    def state(self, params):
        state = jax.eval_shape(
            lambda key: fresh_state(self.stage, self.optimizer, key), jax.random.key(0)
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        return zeros | {"params": params, "ema": params}

    def train(self, params, batch, steps=20):
        """Metrics of each step, and the last parameters."""
        state, seen = self.state(params), []
        for _ in range(steps):
            state, metrics = self.step(state, {}, batch, RATE)
            seen.append(jax.device_get(metrics))
        assert all(m["nonfinite"] == 0 for m in seen)
        return seen, state["params"]


@pytest.fixture(scope="module")
def losses():
    config, loss = CONFIG, LOSS
    return adversarial.gan_losses(settings_for(loss), config)


@pytest.fixture(scope="module")
def start():
    stage = stage_of(LOSS)
    return jax.jit(lambda key: stage.begin(stage.init(key)), compiler_options=QUICK)(
        jax.random.key(0)
    )


@pytest.fixture(scope="module")
def discriminator(losses):
    return Side("discriminator", losses.of_discriminator, ("discriminator",))


@pytest.fixture(scope="module")
def generator(losses):
    return Side("generator", losses.of_generator, ("dit", "text"))


def mean(seen, name):
    return float(np.mean([m[name] for m in seen]))


def unchanged(before, after, part):
    return jax.tree.all(jax.tree.map(np.array_equal, before[part], after[part]))


def test_the_discriminator_begins_as_the_generator_and_keeps_its_buffers(start):
    body, dit = start["discriminator"]["body"], flatten(start["dit"])
    same = {f"shared_blocks_0{k[13:]}" if k.startswith("shared") else k: x for k, x in dit.items()}
    for path, x in flatten(body).items():
        np.testing.assert_array_equal(x, same[path], path)
    buffers = {path for path in flatten(start) if path.endswith("rope_freqs")}
    assert stage_of(LOSS).fixed == buffers and len(buffers) == 2
    untrained = stage_of(dataclasses.replace(LOSS, train_text=False)).fixed
    assert untrained - buffers == {"text/positive", "text/negative"}


@pytest.mark.slow
def test_the_discriminator_learns_while_the_generator_is_fixed(discriminator, start, batch):
    seen, params = discriminator.train(start, batch)
    assert seen[0]["discriminator"] > 0.6  # about log 2: it separates nothing yet
    assert mean(seen[-3:], "discriminator") < 0.35
    assert mean(seen[-3:], "logit_real") > mean(seen[-3:], "logit_fake") + 1
    assert seen[-1]["told_apart_percent"] == 100 and seen[0]["told_apart_percent"] <= 100
    assert all(m["r1"] > 0 and m["r2"] > 0 for m in seen)
    weighed = [m["discriminator"] + 100 * m["r1"] + 100 * m["r2"] for m in seen]
    np.testing.assert_allclose([m["loss"] for m in seen], weighed, rtol=1e-5)
    assert unchanged(start, params, "dit") and unchanged(start, params, "text")


@pytest.mark.slow
def test_the_generator_learns_while_the_discriminator_is_fixed(generator, start, batch):
    seen, params = generator.train(start, batch)
    for name in ("loss", "features", "latent"):
        assert mean(seen[-3:], name) < 0.9 * seen[0][name], name
    assert mean(seen[-3:], "adversarial") < seen[0]["adversarial"]
    total = [m["adversarial"] + m["features"] + m["latent"] for m in seen]
    np.testing.assert_allclose([m["loss"] for m in seen], total, rtol=1e-5)
    kept = batch.plan.valid.sum() / (2 * np.prod(GRID))
    assert seen[0]["skip_percent"] == pytest.approx(100 * float(1 - kept))
    assert unchanged(start, params, "discriminator") and not unchanged(start, params, "text")


@pytest.mark.slow
def test_both_learn_by_turns_and_stay_finite(discriminator, generator, start, batch):
    first, second = discriminator.state(start), generator.state(start)
    for _ in range(20):
        first, of_first = discriminator.step(first, {}, batch, RATE)
        second, of_second = generator.step(second | {"params": first["params"]}, {}, batch, RATE)
        first = first | {"params": second["params"]}
        assert of_first["nonfinite"] == of_second["nonfinite"] == 0
    assert abs(float(of_first["logit_real"] - of_first["logit_fake"])) < 20  # neither has won
    assert float(of_second["latent"]) < 2


@pytest.mark.slow
@pytest.mark.parametrize("side", ["discriminator", "generator"])
def test_what_skipped_tokens_hold_plays_no_part(request, side, start, batch):
    side = request.getfixturevalue(side)

    def elsewhere(latent):
        tokens = patchify(latent).reshape(1, -1, 64)
        kept = batch.plan.patch_index[0][np.asarray(batch.plan.valid[0])]
        keep = jnp.zeros(tokens.shape[1], bool).at[kept].set(True)
        assert 0 < keep.mean() < 1
        return unpatchify(jnp.where(keep[:, None], tokens, 9.0).reshape(2, -1, 64), GRID)

    hr, lr = (elsewhere(*latents) for latents in (batch.hr_latents, batch.lr_latents))
    other = batch._replace(hr_latents=(hr,), lr_latents=(lr,))
    wanted, want = side.step(side.state(start), {}, batch, RATE)
    found, got = side.step(side.state(start), {}, other, RATE)
    assert {k: float(v) for k, v in got.items()} == {k: float(v) for k, v in want.items()}
    assert jax.tree.all(jax.tree.map(np.array_equal, wanted["params"], found["params"]))


@pytest.mark.slow
def test_pictures_have_their_own_perturbation_and_none_has_no_penalty(losses, start, batch):
    weight = dataclasses.replace(LOSS, sigma_image=0.0, sigma_video=0.1)
    still = dataclasses.replace(losses, config=weight)
    plan = build_plan([np.ones((1, 2, 3), bool)] * 2, [3, 2])
    hr, lr = (latents[0][:, :1] for latents in (batch.hr_latents, batch.lr_latents))
    plan = jax.tree.map(jnp.asarray, plan)
    picture = batch._replace(hr_latents=(hr,), lr_latents=(lr,), plan=plan)
    run = jax.jit(still.of_discriminator, compiler_options=QUICK)
    args = (start, picture)
    total, metrics = run(*args, jax.random.key(0))
    assert metrics["r1"] == metrics["r2"] == 0 and total == metrics["discriminator"] > 0

    def parts(**weights):
        other = dataclasses.replace(losses, config=dataclasses.replace(LOSS, **weights))
        return jax.eval_shape(other.of_discriminator, *args, jax.random.key(0))[1].keys()

    assert {"r1", "r2"} & parts(r1=0.0, r2=1.0) == {"r2"}


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"config\.loss: depths \(1, 7\) .* at most 2"):
        stage_of(dataclasses.replace(LOSS, depths=(1, 7)))
    with pytest.raises(UserError, match=r"--config\.vae"):
        adversarial.make(settings_for(LOSS), CONFIG)
    for wrong in (
        {"r1": -1.0},
        {"sigma_video": -0.1},
        {"shift_video": 0.0},
        {"condition_noise": 2.0},
    ):
        with pytest.raises(ValueError, match="it must be"):
            dataclasses.replace(LOSS, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("pairing", ["relativistic", "non_saturating"])
def test_the_stage_plays_on_clips(tmp_path, pairing):
    loss = dataclasses.replace(
        LOSS, pairing=pairing, depths=(1, 2), pixel_weight=1.0, feature_distance="l2"
    )
    settings = settings_for(loss, write_pictures(tmp_path))
    stage = adversarial.make(settings, dataclasses.replace(CONFIG, mm_layers=1), autoencoder())

    def fresh(key):
        state = fresh_state(stage, settings.optimizer, key)
        return state | {"params": stage.begin(state["params"])}

    state = jax.jit(fresh, compiler_options=QUICK)(jax.random.key(0))
    clips = batches(find_sources(settings.data.root), stage.recipe)[0]
    step = jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK)
    seen = []
    for _ in range(20):
        state, metrics = step(state, stage.frozen, clips, RATE)
        seen.append(jax.device_get(metrics))
    assert all(m["nonfinite"] == 0 for m in seen)
    assert mean(seen[-3:], "loss_generator") < seen[0]["loss_generator"]
    names = {"grad_norm_discriminator", "grad_norm_generator", "psnr_kept", "r1", "r2", "features"}
    assert names <= seen[0].keys()
    assert state["ema"].keys() == {"dit", "text"}
    assert stage.flops(clips) > 0
    shown = jax.jit(stage.preview, compiler_options=QUICK)(
        state["ema"], stage.frozen, jax.device_put(clips), jax.random.key(1)
    )
    assert [x.shape for x in shown.frames] == [x.shape for x in clips.hr]
