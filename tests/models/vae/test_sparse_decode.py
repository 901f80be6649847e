"""Decoding on blocks: dense when all are active, the upscaled input where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.params import bind
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.sparse_decode import (
    decode_sparse,
    decode_sparse_clip,
    sparse_decode_step,
)
from skipsr_jax.tokens.blocks import plan_blocks

CONFIG = VAEConfig((4, 4, 8, 8), layers_per_block=1, norm_groups=2, residual_decoder=True)


def _random(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def model(fill):
    return fill(lambda rngs: VAE(CONFIG, rngs=rngs))


@pytest.fixture(scope="module")
def step(model):
    return sparse_decode_step(model[0])


@pytest.fixture(scope="module")
def clip():
    """A latent of three frames, and the upscaled input in slices."""
    frames = _random(1, 9, 32, 48, 3, seed=2)
    return _random(1, 3, 4, 6, 16), [frames[:, :1], frames[:, 1:5], frames[:, 5:]]


def run(step, params, clip, active, slots):
    latent, upscaled = clip
    latents = jnp.split(latent, 3, axis=1)
    plan = plan_blocks(active, slots)
    return np.concatenate(list(decode_sparse_clip(step, params, latents, upscaled, plan)), axis=1)


def pixels(active):
    """Of each frame: which pixels lie in active blocks."""
    of_frames = active[[0] + [1] * 4 + [2] * 4]
    return np.repeat(np.repeat(of_frames, 16, 1), 16, 2)


def test_all_blocks_give_the_dense_frames(model, step, clip):
    vae, params = model
    latent, upscaled = clip
    dense_input = jnp.concatenate(upscaled, axis=1)
    dense, _ = jax.jit(lambda p, z, up: bind(vae, p).decode(z, None, up))(
        params, latent, dense_input
    )
    got = run(step, params, clip, np.ones((3, 2, 3), bool), 6)
    np.testing.assert_allclose(got, dense, atol=2e-5)


def test_other_blocks_are_the_upscaled_input_and_few_programs_serve_all_masks(model, step, clip):
    params = model[1]
    expected = np.concatenate(clip[1], axis=1)[0]
    before = step._cache_size()
    for seed in (0, 1):
        active = np.random.default_rng(seed).random((3, 2, 3)) < 0.5
        active[0] = True
        got = run(step, params, clip, active, 5)[0]
        inside = pixels(active)
        np.testing.assert_array_equal(got[~inside], expected[~inside])
        assert np.abs(got - expected)[inside].min() > 0
    assert step._cache_size() <= before + 2


def test_refused_shapes(model):
    vae, params = model
    (blocks,) = plan_blocks(np.ones((1, 1, 1), bool), 1)
    for latent, frames, says in (
        ((1, 2, 2, 2, 16), (1, 5, 16, 16, 3), "not one frame"),
        ((1, 1, 3, 2, 16), (1, 1, 24, 16, 3), "even sides"),
        ((1, 1, 2, 2, 16), (1, 4, 16, 16, 3), r"\(1, 4, 16, 16, 3\).*\(1, 1, 16, 16, 3\)"),
    ):
        with pytest.raises(ValueError, match=says):
            decode_sparse(bind(vae, params), jnp.zeros(latent), None, jnp.zeros(frames), blocks)
