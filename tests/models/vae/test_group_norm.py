"""The group norm of frames against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.vae.group_norm import GroupNorm, group_norm


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_group_norm_of_each_frame():
    x = _random(2, 3, 4, 5, 6) * 3 + 10
    scale, bias = _random(6, seed=1), _random(6, seed=2)
    grouped = x.astype(np.float64).reshape(2, 3, 20, 2, 3)
    mean, var = grouped.mean((2, 4), keepdims=True), grouped.var((2, 4), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape) * scale + bias
    got = group_norm(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), groups=2)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_group_norm_keeps_its_statistics_in_float32():
    x = jnp.asarray(_random(1, 1, 64, 64, 2) + 100, jnp.bfloat16)
    y = group_norm(x, jnp.ones(2), jnp.zeros(2), groups=1)
    assert y.dtype == jnp.float32
    assert abs(float(y.mean())) < 1e-3 and abs(float(y.std()) - 1) < 1e-3


def test_group_norm_refuses_uneven_groups():
    with pytest.raises(ValueError, match=r"6 channels .* 4 equal groups"):
        GroupNorm(6, 4, rngs=nnx.Rngs(0))
