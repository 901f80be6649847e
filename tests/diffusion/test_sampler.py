"""Euler sampling of flows whose end is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion import sampler, schedule, timesteps


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_straight_flow_is_exact_for_any_number_of_steps(steps):
    rng = np.random.default_rng(0)
    clean, noise = (jnp.asarray(rng.normal(size=(4, 6)), jnp.float32) for _ in range(2))
    calls = []

    def predict(x, t):
        calls.append(float(t))
        np.testing.assert_allclose(x, schedule.add_noise(clean, noise, t), atol=1e-5)
        return noise - clean

    out = sampler.euler_sample(predict, noise, timesteps.uniform_trailing(steps))
    np.testing.assert_allclose(out, clean, atol=1e-5)
    assert calls == timesteps.uniform_trailing(steps).tolist()


def test_one_program_for_all_timesteps():
    traces = []

    @jax.jit
    def predict(x, t):
        traces.append(None)
        return x * t / 1000

    sampler.euler_sample(predict, jnp.ones((2, 3)), timesteps.uniform_trailing(5))
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [[], [500.0, 500.0], [1200.0], [500.0, 0.0]])
def test_timesteps_must_fall_within_the_schedule(bad):
    with pytest.raises(ValueError, match="fall strictly"):
        sampler.euler_sample(lambda x, t: x, jnp.ones(2), np.asarray(bad, np.float32))
