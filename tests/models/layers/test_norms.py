"""Root-mean-square normalisation against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.layers.norms import RMSNorm, rms_normalize

EPS = 1e-5


def formula(x):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_statistics_and_result_are_float32(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 48)) * 300, dtype)
    y = rms_normalize(x, EPS)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, formula(x), rtol=2e-6)


@pytest.mark.parametrize("unfused", [False, True])
def test_the_layer_scales_each_channel(unfused):
    layer = RMSNorm(6, EPS, rngs=nnx.Rngs(0), unfused=unfused)
    layer.scale[...] = jnp.arange(6.0)
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(layer)(x), formula(x) * np.arange(6), rtol=2e-6)


def test_zeros_stay_zeros_and_their_gradient_is_finite():
    x = jnp.zeros((2, 8))
    assert not rms_normalize(x, EPS).any()
    gradient = jax.grad(lambda x: rms_normalize(x, EPS).sum())(x)
    np.testing.assert_allclose(gradient, EPS**-0.5, rtol=1e-6)
