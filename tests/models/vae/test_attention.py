"""Attention within frames against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.vae import attention as attention_module
from skipsr_jax.models.vae.attention import FrameAttention


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("max_scores", [1, 50, 2**20])
def test_attention_in_blocks_equals_dense(monkeypatch, max_scores):
    monkeypatch.setattr(attention_module, "_MAX_SCORES", max_scores)
    attention = FrameAttention(4, 2, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    x = _random(1, 2, 3, 5, 4)
    y = np.asarray(attention.group_norm(jnp.asarray(x))).reshape(2, 15, 4)

    def linear(layer, y):
        return y @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    q, k, v = (linear(layer, y) for layer in (attention.to_q, attention.to_k, attention.to_v))
    scores = np.exp(np.einsum("fnc,fmc->fnm", q, k) / 2)
    weights = scores / scores.sum(-1, keepdims=True)
    expected = x + linear(attention.to_out[0], weights @ v).reshape(x.shape)
    np.testing.assert_allclose(attention(jnp.asarray(x))[0], expected, atol=1e-5)
