"""Encoding on blocks: dense when all are active, blind to what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.params import bind
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.sparse_encode import (
    encode_sparse,
    encode_sparse_clip,
    sparse_encode_step,
)
from skipsr_jax.tokens.blocks import plan_blocks

CONFIG = VAEConfig((4, 4, 8, 8), layers_per_block=1, norm_groups=2)


@pytest.fixture(scope="module")
def model(fill):
    return fill(lambda rngs: VAE(CONFIG, rngs=rngs))


@pytest.fixture(scope="module")
def step(model):
    return sparse_encode_step(model[0])


@pytest.fixture(scope="module")
def frames():
    return jnp.asarray(np.random.default_rng(1).normal(size=(1, 9, 32, 48, 3)), jnp.float32)


def run(step, params, frames, active, slots):
    slices = [frames[:, :1], frames[:, 1:5], frames[:, 5:]]
    parts = list(encode_sparse_clip(step, params, slices, plan_blocks(active, slots)))
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)


def test_all_blocks_give_the_dense_posterior(model, step, frames):
    vae, params = model
    dense, _ = jax.jit(lambda p, x: bind(vae, p).encode(x))(params, frames)
    got = run(step, params, frames, np.ones((3, 2, 3), bool), 6)
    for a, b in zip(got, dense, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_what_is_left_out_has_no_influence(model, step, frames):
    active = np.ones((3, 2, 3), bool)
    active[2, :, 1:] = False
    usual = run(step, model[1], frames, active, 6).mean
    hidden = frames.at[:, 5:, :, 17:].add(5.0)  # but for the border of the first column
    np.testing.assert_array_equal(run(step, model[1], hidden, active, 6).mean, usual)
    changed = run(step, model[1], frames.at[:, 5:, :, :16].add(5.0), active, 6).mean
    assert np.abs(changed - usual)[:, 2].min() > 0
    np.testing.assert_array_equal(changed[:, :2], usual[:, :2])


def test_few_programs_serve_all_masks(model, step, frames):
    before = step._cache_size()
    for seed in (0, 1):
        active = np.random.default_rng(seed).random((3, 2, 3)) < 0.5
        run(step, model[1], frames, active, 5)
    assert step._cache_size() <= before + 2


def test_refused_shapes(model):
    vae, params = model
    (blocks,) = plan_blocks(np.ones((1, 1, 1), bool), 1)
    for shape in ((1, 4, 16, 16, 3), (2, 1, 16, 16, 3), (1, 1, 24, 16, 3)):
        with pytest.raises(ValueError, match="multiples of 16"):
            encode_sparse(bind(vae, params), jnp.zeros(shape), None, blocks)
