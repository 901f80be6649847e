"""Kept tokens go in and come out at their places, and nothing else does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.data.batch import Batch
from skipsr_jax.diffusion.schedule import TERMINAL, velocity
from skipsr_jax.models.dit import TINY, DiT
from skipsr_jax.models.params import abstract
from skipsr_jax.tokens.plan import build_plan, stack_plans
from skipsr_jax.training import packed
from skipsr_jax.training.losses import flow
from skipsr_jax.training.stages import sr


@pytest.fixture(scope="module")
def masks():
    """Four samples of 2 x 2 x 3 patches in two packs."""
    return np.random.default_rng(0).random((4, 2, 2, 3)) < 0.6


@pytest.fixture(scope="module")
def plan(masks):
    bucket = build_plan([np.ones((2, 2, 3), bool)] * 2, [1, 1]).valid.shape[1]
    plans = [build_plan(list(masks[i : i + 2]), [1, 1]) for i in (0, 2)]
    assert {p.valid.shape[1] for p in plans} == {bucket}
    return jax.device_put(stack_plans(plans))


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(1).normal(size=(2, 4, 2, 4, 6, 16)).astype(np.float32)


def test_taking_and_putting_back(plan, masks):
    tokens = np.random.default_rng(0).random((4, 2 * 2 * 3, 8)).astype(np.float32)
    kept = packed.gather_patches([jnp.asarray(tokens)], plan)
    assert np.all(np.asarray(kept)[~plan.valid] == 0)
    (back,) = packed.scatter_patches([jnp.zeros_like(tokens)], kept, plan)
    mask = masks.reshape(4, -1, 1)
    np.testing.assert_array_equal(back, np.where(mask, tokens, 0))


def test_the_mask_of_a_plan(plan, masks, latents):
    (kept,) = packed.kept_patches(plan, (jnp.asarray(latents[0]),))
    np.testing.assert_array_equal(kept, masks)
    share = packed.skip_percent(plan, (jnp.asarray(latents[0]),))
    assert share == pytest.approx(100 * (1 - masks.mean()), abs=1e-4)


def test_a_perfect_prediction_has_no_error_and_gives_the_clean_latent(plan, masks, latents):
    clean, end = jnp.asarray(latents)
    timestep = jnp.asarray([[TERMINAL, 100.0], [500.0, 900.0]])
    noisy = flow.noisy_latents((clean,), (end,), timestep)
    perfect = packed.kept_tokens((velocity(clean, end),), plan)
    assert flow.velocity_error(perfect, (clean,), (end,), plan) == 0
    off = jnp.where(plan.valid[..., None], perfect + 0.5, 7.0)  # padding does not count
    assert flow.velocity_error(off, (clean,), (end,), plan) == pytest.approx(0.25, abs=1e-5)
    (found,) = flow.clean_latents(perfect, noisy, timestep, plan)
    inside = masks.repeat(2, 2).repeat(2, 3)[..., None]
    np.testing.assert_allclose(found, np.where(inside, clean, noisy[0]), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_fraction_of_the_samples_is_without_condition(share, plan, latents, monkeypatch):
    """Stage sr's condition drop, for guidance; what is compared in pixels always has its input."""
    drawn = []

    def predict(dit, text, noisy, low, timestep, batch, has_condition):
        drawn.append(np.asarray(has_condition))
        return jnp.zeros((*batch.plan.patch_index.shape, 64))

    monkeypatch.setattr(sr, "predict", predict)
    weight = sr.SrLoss(condition_drop=share, one_step_share=0.5, pixel_samples=1)
    dit = abstract(lambda rngs: DiT(TINY, rngs=rngs))
    clean, low = jnp.asarray(latents)
    batch = Batch(
        plan=plan, negative=jnp.zeros((2, 2), bool), hr_latents=(clean,), lr_latents=(low,)
    )
    for key in jax.random.split(jax.random.key(0), 20):
        sr.velocity_loss(dit, weight, {}, batch, key)
    drawn = np.stack(drawn).reshape(20, 4)
    assert drawn[:, 0].all()
    np.testing.assert_allclose(drawn[:, 1:].mean(), 1 - share, atol=0.2)
