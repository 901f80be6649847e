"""Guidance by hand, the rescale's purpose, and which prompts are run."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import guidance


def predictions():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.float32) for _ in range(2))


def test_scale_one_runs_the_positive_prompt_alone():
    calls = []

    def predict(prompt):
        calls.append(prompt)
        return jnp.ones((2, 16))

    guidance.guided(predict, jnp.zeros(1), jnp.ones(1), 1.0, rescale=0.7)
    assert len(calls) == 1
    assert calls[0] == 0
    guidance.guided(predict, jnp.zeros(1), jnp.ones(1), 2.0)
    assert len(calls) == 3


def test_full_rescale_restores_the_deviation_of_each_pixel():
    positive, negative = predictions()
    got = guidance.combine(positive, negative, 6.5, rescale=1.0)
    np.testing.assert_allclose(got.std(-1), positive.std(-1), rtol=1e-4)
    plain = guidance.combine(positive, negative, 6.5)
    np.testing.assert_allclose(plain, negative + 6.5 * (positive - negative), rtol=1e-5)


def test_patches_of_several_pixels_are_rescaled_pixel_by_pixel():
    positive, negative = predictions()
    got = guidance.combine(positive.reshape(2, 80), negative.reshape(2, 80), 3.0, 0.7)
    want = guidance.combine(positive, negative, 3.0, 0.7)
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-6)


def test_constant_pixels_stay_finite():
    zero = jnp.zeros((3, 16))
    assert bool(jnp.isfinite(guidance.combine(zero, zero, 2.0, 1.0)).all())


def test_rescale_out_of_range_is_refused():
    with pytest.raises(ValueError, match="rescale"):
        guidance.guided(lambda x: x, jnp.ones(2), jnp.ones(2), 2.0, rescale=1.5)
