"""Tiles: layers over parts of the picture give the numbers of the whole, and the same caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.vae import upsample
from skipsr_jax.models.vae.blocks import Resnet
from skipsr_jax.models.vae.spatial_tiles import rows_with_halo
from skipsr_jax.models.vae.upsample import Upsample

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _filled(layer):
    leaves, tree = jax.tree.flatten(to_dict(layer))
    numbers = [_random(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
    return bind(layer, jax.tree.unflatten(tree, numbers))


LAYERS = {
    "resnet": lambda: Resnet(4, 4, 2, rngs=nnx.Rngs(0), **FLOAT32),
    "wider": lambda: Resnet(4, 6, 2, rngs=nnx.Rngs(0), **FLOAT32),
    "upsample": lambda: Upsample(4, False, rngs=nnx.Rngs(0), **FLOAT32),
}


@pytest.mark.parametrize("name", LAYERS)
def test_tiles_give_the_whole(monkeypatch, name):
    monkeypatch.setattr(upsample, "_PIXELS_PER_CHANNEL", 0)
    layer = _filled(LAYERS[name]())
    x = _random(1, 4, 6, 3, 4, seed=9)

    def run(tiles):
        @jax.jit
        def both(first, later):
            y, cache = layer(first, None, tiles)
            z, cache = layer(later, cache, tiles)
            return y, z, cache

        return both(x[:, :1], x[:, 1:])

    want, got = run(1), run(3)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_beyond_the_picture_there_is_nothing():
    x = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1, 1)
    for first, want in ((0, [0, 11, 12, 13]), (2, [12, 13, 14, 0])):
        got = rows_with_halo(x, jnp.asarray(first), 2, lambda part: part + 10)
        np.testing.assert_array_equal(got[0, 0, :, 0, 0], want)
