"""One student step against two teacher steps, on velocities whose paths are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.diffusion.distillation import student_timesteps, two_step_velocity
from skipsr_jax.diffusion.timesteps import uniform_trailing


def test_the_target_lands_where_two_euler_steps_of_the_teacher_land():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    t = np.array([1000.0, 750.0, 250.0], np.float32)  # student steps of 250

    def teacher(x, t):
        return np.sin(x) * (1 + t[:, None] / 500) + 0.3

    u = t / 1000
    middle = x + (-0.125) * teacher(x, t)
    end = middle + (-0.125) * teacher(middle, 1000 * (u - 0.125))
    target = two_step_velocity(
        lambda x, t: jnp.sin(x) * (1 + t[:, None] / 500) + 0.3,
        jnp.asarray(x), jnp.asarray(t), jnp.float32(250.0),
    )  # fmt: skip
    np.testing.assert_allclose(x - 0.25 * np.asarray(target), end, atol=1e-6)


def test_on_straight_paths_the_teacher_is_its_own_target():
    goal = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5)), jnp.float32)
    t = jnp.asarray([1000.0, 500.0])

    def straight(x, t):
        return (x - goal) / (t[:, None] / 1000)

    target = two_step_velocity(straight, x, t, jnp.float32(500.0))
    np.testing.assert_allclose(target, straight(x, t), atol=1e-5)


@pytest.mark.parametrize(("samples", "steps"), [(4, 4), (8, 2), (6, 1), (3, 2), (2, 4), (1, 4)])
def test_timesteps_are_trailing_ones_and_equally_likely(samples, steps):
    draw = jax.jit(jax.vmap(lambda key: student_timesteps(key, samples, jnp.int32(steps))))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
    want = uniform_trailing(steps)
    values, counts = np.unique(found, return_counts=True)
    np.testing.assert_allclose(values, sorted(want), rtol=1e-6)
    np.testing.assert_allclose(counts / found.size, 1 / steps, atol=0.08)
    first = found[:, : samples // steps]
    assert (first == 1000).all()  # a full share of the samples starts at pure noise
