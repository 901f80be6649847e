"""The memory that slices take: against measured numbers, and what tiles save."""

import jax.numpy as jnp
import pytest

from skipsr_jax.models.params import abstract
from skipsr_jax.models.vae import SEEDVR, TINY, VAE
from skipsr_jax.models.vae.memory import estimate_memory

GIB = 2**30


def _estimate(config, height, width):
    def build(rngs):
        return VAE(config, rngs=rngs, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)

    return estimate_memory(abstract(build), height, width, 1)


def test_tiles_are_the_fewest_that_fit():
    found = _estimate(SEEDVR, 720, 1280)
    # Peak of decoding on one H200 (docs/performance.md): 13.07 GiB.
    assert found.by_tiles[1] / GIB == pytest.approx(13.07, rel=0.05)
    assert list(found.by_tiles) == [1, 2, 3, 5, 6, 9, 10, 15, 18, 30, 45]
    assert found.tiles_within(24 * GIB) == 1
    chosen = found.tiles_within(12 * GIB)
    assert chosen == 3 and found.by_tiles[3] <= 12 * GIB < found.by_tiles[2]
    assert found.smallest == found.by_tiles[45] > found.params
    with pytest.raises(ValueError, match=r"even in 45 spatial tiles, and the limit is 4 GiB"):
        found.tiles_within(4 * GIB)


def test_a_residual_decoder_on_a_small_picture():
    found = _estimate(TINY, 32, 48)
    assert list(found.by_tiles) == [1, 2]
    assert found.by_tiles[2] < found.by_tiles[1]
