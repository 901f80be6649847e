"""The condition: its mask channel, and noise that is off at 0."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import condition
from skipsr_jax.diffusion.timesteps import shift_factor


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 16), (1, 4, 6, 16), (7, 16)])
def test_the_mask_is_one_everywhere_images_included(shape):
    latent = jnp.full(shape, 0.5)
    got = condition.condition(latent)
    assert got.shape == (*shape[:-1], shape[-1] + 1)
    np.testing.assert_array_equal(got[..., :-1], latent)
    np.testing.assert_array_equal(got[..., -1], 1)


def test_a_sample_without_condition_has_zeros_in_all_channels_and_the_mask():
    latent = jnp.full((3, 2, 4, 6, 16), 0.5)
    got = condition.condition(latent, jnp.array([True, False, True]))
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_array_equal(got[::2], condition.condition(latent[::2]))


def test_no_strength_no_change():
    latent, noise = jnp.full((1, 2, 4, 4, 16), 0.3), jnp.ones((1, 2, 4, 4, 16))
    np.testing.assert_array_equal(condition.add_condition_noise(latent, noise, 0.0), latent)


def test_strength_is_shifted_by_the_latents_shape():
    latent, noise = jnp.zeros((1, 6, 90, 160, 1)), jnp.ones((1, 6, 90, 160, 1))
    factor = shift_factor((6, 90, 160))
    want = factor * 0.1 / (1 + (factor - 1) * 0.1)
    got = condition.add_condition_noise(latent, noise, 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    other = condition.add_condition_noise(latent, noise, 0.1, (90, 160, 1))
    assert abs(float(other[0, 0, 0, 0, 0]) - want) > 1e-3


def test_strength_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\], not 1.2"):
        condition.condition_timestep(1.2, (1, 4, 4))
