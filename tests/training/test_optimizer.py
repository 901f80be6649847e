"""Learning rate, weight decay, frozen paths and the moving average."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.training.optimizer import learning_rate, moving_average, transformation, without
from skipsr_jax.training.settings import Optimizer


def test_the_rate_warms_up_and_follows_a_cosine_to_zero():
    settings = Optimizer(learning_rate=0.5, warmup_steps=4)
    assert [learning_rate(settings, step, 0.0) for step in range(5)] == [
        0.125,
        0.25,
        0.375,
        0.5,
        0.5,
    ]
    assert learning_rate(settings, 9, 0.5) == pytest.approx(0.25)
    assert learning_rate(settings, 9, 1.0) == learning_rate(settings, 9, 1.7) == 0.0


def test_weight_decay_acts_on_kernels_alone():
    params = {"conv": {"kernel": jnp.full(3, 2.0), "bias": jnp.full(3, 2.0)}}
    grads = {"conv": {"kernel": jnp.zeros(3), "bias": jnp.zeros(3)}}
    step = transformation(Optimizer(weight_decay=0.25, clip_norm=0.0))
    updates, _ = step.update(grads, step.init(params), params)
    np.testing.assert_array_equal(updates["conv"]["kernel"], 0.5)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0.0)


def test_rmsprop_is_adamw_without_a_first_moment():
    params, rng = {"w": jnp.ones(5)}, np.random.default_rng(0)
    grads = [{"w": jnp.asarray(rng.normal(size=5), jnp.float32)} for _ in range(3)]
    found = []
    for kind in ("adamw", "rmsprop"):
        step = transformation(Optimizer(kind=kind, b1=0.0, b2=0.9))
        state = step.init(params)
        for grad in grads:
            updates, state = step.update(grad, state, params)
        found.append(updates["w"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_fixed_paths_have_no_gradient():
    grads = {"dit": {"kernel": jnp.ones(2), "rope_freqs": jnp.ones(2)}}
    found = without(grads, frozenset({"dit/rope_freqs"}))["dit"]
    assert found["kernel"].all() and not found["rope_freqs"].any()


def test_the_average_looks_back_less_far_in_the_beginning():
    ema, params = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    assert moving_average(ema, params, 0.999, jnp.float32(0))["w"] == pytest.approx(0.9)
    assert moving_average(ema, params, 0.999, jnp.float32(1e6))["w"] == pytest.approx(
        0.001, rel=1e-3
    )
    assert moving_average(params, params, 0.999, jnp.float32(3))["w"] == 1  # equal stays equal
