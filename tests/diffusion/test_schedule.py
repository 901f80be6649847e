"""The ends of the path, x_0 from the velocity, timesteps per token, and dtypes."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import schedule


def test_the_ends_of_the_path_and_the_clean_sample_from_the_velocity():
    rng = np.random.default_rng(0)
    clean, noise = (jnp.asarray(rng.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    t = jnp.asarray([0.0, 1000.0, 250.0, 990.0])
    noisy = schedule.add_noise(clean, noise, t)
    np.testing.assert_array_equal(noisy[0], clean[0])
    np.testing.assert_array_equal(noisy[1], noise[1])
    v = schedule.velocity(clean, noise)
    np.testing.assert_allclose(schedule.clean_from_velocity(v, noisy, t), clean, atol=1e-5)


def test_a_timestep_for_each_token():
    clean, noise = jnp.zeros((2, 3, 4)), jnp.ones((2, 3, 4))
    t = jnp.asarray([[0.0, 100.0, 200.0], [300.0, 400.0, 500.0]])
    np.testing.assert_allclose(schedule.add_noise(clean, noise, t)[..., 1], t / 1000, rtol=1e-6)


def test_bfloat16_is_mixed_in_float32():
    x = jnp.ones((2, 2), jnp.bfloat16)
    assert schedule.add_noise(x, x, jnp.float32(10)).dtype == jnp.float32


def test_timestep_axes_must_lead():
    with pytest.raises(ValueError, match="leading axes"):
        schedule.add_noise(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros(3))
