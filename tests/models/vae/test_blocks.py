"""The autoencoder's parts against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.vae import blocks as vae_blocks
from skipsr_jax.models.vae.blocks import FrameAttention, space_to_depth
from skipsr_jax.models.vae.group_norm import GroupNorm, group_norm

KIND = {"dtype": jnp.float32, "param_dtype": jnp.float32}


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
        GroupNorm(6, 4)


@pytest.mark.parametrize("max_scores", [1, 50, 2**20])
def test_attention_in_blocks_equals_dense(monkeypatch, max_scores):
    monkeypatch.setattr(vae_blocks, "_MAX_SCORES", max_scores)
    attention = FrameAttention(4, 2, rngs=nnx.Rngs(0), **KIND)
    x = _random(1, 2, 3, 5, 4)
    y = np.asarray(attention.group_norm(jnp.asarray(x))).reshape(2, 15, 4)

    def linear(layer, y):
        return y @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    q, k, v = (linear(layer, y) for layer in (attention.to_q, attention.to_k, attention.to_v))
    scores = np.exp(np.einsum("fnc,fmc->fnm", q, k) / 2)
    weights = scores / scores.sum(-1, keepdims=True)
    expected = x + linear(attention.to_out[0], weights @ v).reshape(x.shape)
    np.testing.assert_allclose(attention(jnp.asarray(x))[0], expected, atol=1e-5)


def test_space_to_depth_reads_row_by_row():
    x = jnp.arange(16.0).reshape(1, 1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x)[0, 0, 0, 1], [2, 3, 6, 7])


def test_run_in_order_gives_each_part_its_own_carry():
    def part(step):
        return lambda x, carry: (x + step, (0 if carry is None else carry) + step)

    parts = [part(1.0), part(10.0)]
    for remat in (False, True):
        x, carry = vae_blocks.run_in_order(parts, jnp.zeros(()), None, remat=remat)
        assert (x, *carry) == (11, 1, 10)
        _, carry = vae_blocks.run_in_order(parts, x, carry, remat=remat)
        assert carry == (2, 20)
