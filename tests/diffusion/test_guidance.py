"""Guidance against the formula, and what the rescaling is for."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion.guidance import apply_guidance


def predictions():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("scale", [0.0, 1.0, 6.5])
def test_guidance_moves_along_the_difference_of_the_prompts(scale):
    positive, negative = predictions()
    got = apply_guidance(positive, negative, scale)
    np.testing.assert_allclose(got, negative + scale * (positive - negative), rtol=1e-5)


def test_full_rescale_restores_the_deviation_of_each_pixel():
    positive, negative = predictions()
    got = apply_guidance(positive, negative, 6.5, rescale=1.0)
    np.testing.assert_allclose(got.std(-1), positive.std(-1), rtol=1e-4)


def test_patches_of_several_pixels_are_rescaled_pixel_by_pixel():
    positive, negative = predictions()
    got = apply_guidance(positive.reshape(2, 80), negative.reshape(2, 80), 3.0, 0.7)
    want = apply_guidance(positive, negative, 3.0, 0.7)
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-6)


def test_constant_pixels_stay_finite():
    zero = jnp.zeros((3, 16))
    assert bool(jnp.isfinite(apply_guidance(zero, zero, 2.0, 1.0)).all())


def test_bfloat16_predictions_are_combined_in_float32():
    half = [x.astype(jnp.bfloat16) for x in predictions()]
    assert apply_guidance(*half, 2.0).dtype == jnp.float32
