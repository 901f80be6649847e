"""Timesteps: counts, ends, the known values of the shift, and the training distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import timesteps


@pytest.mark.parametrize("steps", [1, 4, 49, 50, 98, 1000])
def test_exactly_as_many_as_asked(steps):
    got = timesteps.uniform_trailing(steps)
    assert got.shape == (steps,)
    assert got[0] == 1000
    assert got[-1] == pytest.approx(1000 / steps)
    assert (np.diff(got) < 0).all()


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        timesteps.uniform_trailing(0)


@pytest.mark.parametrize(
    ("latent_shape", "factor"),
    [((1, 32, 32), 1.0), ((1, 128, 128), 3.2), ((10, 32, 32), 1.0), ((37, 90, 160), 5.0)],
)
def test_shift_factor_at_the_ends_of_its_lines(latent_shape, factor):
    assert timesteps.shift_factor(latent_shape) == pytest.approx(factor)


def test_shift_keeps_the_ends_and_moves_the_middle():
    t = jnp.asarray([0.0, 500.0, 1000.0])
    np.testing.assert_allclose(timesteps.shift_timestep(t, 3.0), [0, 750, 1000], rtol=1e-6)
    np.testing.assert_allclose(timesteps.shift_timestep(t, 1.0), t, rtol=1e-6)


def test_training_timesteps_are_logit_normal_shifted_for_each_sample():
    factor = jnp.broadcast_to(jnp.asarray([1.0, 4.0]), (20_000, 2))
    t = timesteps.sample_training_timesteps(jax.random.key(0), factor)
    assert t.shape == factor.shape
    # The median of a monotone map is the map of the median: 500 and 4/5.
    np.testing.assert_allclose(np.median(t, axis=0), [500, 800], atol=12)
    logit = np.log(t[:, 0] / (1000 - t[:, 0]))
    assert logit.std() == pytest.approx(1, abs=0.03)
