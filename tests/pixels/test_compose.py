"""Skipped patches come out untouched, in latents and in pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.pixels import compose
from skipsr_jax.tokens.plan import build_plan


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_latent_patches_go_out_and_back(rng):
    latent = rng.normal(size=(1, 3, 8, 12, 16)).astype(np.float32)
    refined = rng.normal(size=latent.shape).astype(np.float32)
    keep = rng.random((3, 4, 6)) < 0.4
    index = jnp.asarray(build_plan([keep], [5]).patch_index)
    tokens = compose.gather_patches(jnp.asarray(refined), index)
    assert tokens.shape == (1, index.shape[1], 64)
    assert not np.asarray(tokens)[0, index[0] < 0].any()
    out = np.asarray(compose.compose_latent(jnp.asarray(latent), tokens, index))
    where = np.repeat(np.repeat(keep, 2, 1), 2, 2)[None, ..., None]
    np.testing.assert_array_equal(out, np.where(where, refined, latent))


@pytest.mark.parametrize("feather", [0, 1, 3, 7])
def test_skipped_pixels_are_the_input_bit_for_bit(rng, feather):
    keep = rng.random((2, 5, 6)) < 0.5
    frames = np.array([0, 1, 1])
    up = rng.random((3, 77, 90, 3)).astype(np.float32)
    decoded = rng.random(up.shape).astype(np.float32)
    args = [jnp.asarray(x) for x in (decoded, up, keep[frames])]
    out = np.asarray(compose.compose_pixels(*args, feather))
    skipped = ~np.repeat(np.repeat(keep, 16, 1), 16, 2)[frames, :77, :90]
    np.testing.assert_array_equal(out[skipped], up[skipped])
    assert (np.abs(out - up)[~skipped].max(axis=-1) > 0).all()


def test_the_ramp_lies_in_the_kept_patch_and_reaches_one():
    keep = np.zeros((1, 1, 4), bool)
    keep[0, 0, 2:] = True
    weight = np.asarray(compose.seam_weights(jnp.asarray(keep), 3))[0, 7]
    np.testing.assert_array_equal(weight[:32], 0)
    np.testing.assert_allclose(weight[32:38], np.arange(1, 7) / 7, atol=1e-6)
    np.testing.assert_allclose(weight[38:], 1, atol=1e-6)


def test_all_kept_is_the_decoded_frame(rng):
    keep = jnp.ones((1, 2, 2), bool)
    decoded = rng.random((1, 32, 32, 3)).astype(np.float32)
    args = jnp.asarray(decoded), jnp.zeros(decoded.shape), keep
    out = compose.compose_pixels(*args, 3)
    np.testing.assert_allclose(np.asarray(out), decoded, atol=1e-6)
