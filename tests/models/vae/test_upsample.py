"""Upsampling: the merged kernel gives the two convolutions' numbers, in slices and at borders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.vae import upsample
from skipsr_jax.models.vae.upsample import Upsample

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}
ALWAYS, NEVER = 0, 10**9


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def _layer(in_time):
    """A layer of two channels with random numbers, and they."""
    layer = Upsample(2, in_time, rngs=nnx.Rngs(0), **FLOAT32)
    leaves, tree = jax.tree.flatten(to_dict(layer))
    filled = [_random(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
    return layer, jax.tree.unflatten(tree, filled)


def _run(params, x, in_time, lengths):
    """The layer on a clip in slices of so many frames."""
    layer, cache, parts = bind(_layer(in_time)[0], params), None, []
    for part in jnp.split(x, np.cumsum(lengths)[:-1], axis=1):
        y, cache = layer(part, cache)
        parts.append(y)
    return jnp.concatenate(parts, axis=1)


@pytest.mark.parametrize("size", [(3, 4), (1, 5)], ids=str)
@pytest.mark.parametrize("in_time", [False, True])
@pytest.mark.parametrize("lengths", [(4,), (1, 1, 2), (3, 1)], ids=str)
def test_the_merged_kernel_gives_the_two_convolutions(monkeypatch, size, in_time, lengths):
    x, (_, params) = _random(2, 4, *size, 2, seed=9), _layer(in_time)
    monkeypatch.setattr(upsample, "_PIXELS_PER_CHANNEL", NEVER)
    want = _run(params, x, in_time, (4,))
    monkeypatch.setattr(upsample, "_PIXELS_PER_CHANNEL", ALWAYS)
    got = _run(params, x, in_time, lengths)
    assert got.shape == (2, 7 if in_time else 4, 2 * size[0], 2 * size[1], 2)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("in_time", [False, True])
def test_the_merged_kernel_has_the_gradients_of_the_two(monkeypatch, in_time):
    x, (_, params) = _random(1, 3, 2, 3, 2, seed=9), _layer(in_time)

    def gradients(threshold):
        monkeypatch.setattr(upsample, "_PIXELS_PER_CHANNEL", threshold)

        def loss(params, x):
            return jnp.sum(jnp.sin(_run(params, x, in_time, (3,))))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)

    want, got = gradients(NEVER), gradients(ALWAYS)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_large_pictures_are_merged_and_cost_less():
    def products(size):
        x = jax.ShapeDtypeStruct((1, 2, *size, 2), jnp.float32)
        text = str(jax.make_jaxpr(_layer(True)[0])(x))
        return "2,2,2,2,16]" in text  # the merged kernel of 2 channels

    assert products((4, 4)) and not products((3, 5))


def test_fresh_upsampling_repeats_pixels_and_drops_the_first_twin():
    part = Upsample(2, True, rngs=nnx.Rngs(0), **FLOAT32)
    x = _random(1, 2, 2, 3, 2)
    identity = jnp.zeros((3, 3, 3, 2, 2)).at[2, 1, 1].set(jnp.eye(2))
    part.conv.kernel[...] = identity
    repeated = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    first, cache = part(x)
    np.testing.assert_array_equal(first, repeated[:, jnp.asarray([0, 1, 1])])
    later, _ = part(x, cache)
    np.testing.assert_array_equal(later, jnp.repeat(repeated, 2, axis=1))
