"""The memory that slices take: against measured numbers, and what strips save."""

import jax.numpy as jnp
import pytest
from flax import nnx

from skipsr_jax.models.params import abstract
from skipsr_jax.models.vae import SEEDVR, TINY, VAE
from skipsr_jax.models.vae.memory import need

GIB = 2**30


def _needed(config, height, width):
    kind = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    return need(abstract(lambda: VAE(config, rngs=nnx.Rngs(0), **kind)), height, width, 1)


def test_strips_are_the_fewest_that_fit():
    found = _needed(SEEDVR, 720, 1280)
    # Peak of decoding on one H200 (docs/performance.md): 13.07 GiB.
    assert found.strips[1] / GIB == pytest.approx(13.07, rel=0.05)
    assert list(found.strips) == [1, 2, 3, 5, 6, 9, 10, 15, 18, 30, 45]
    assert found.strips_within(24 * GIB) == 1
    chosen = found.strips_within(12 * GIB)
    assert chosen == 3 and found.strips[3] <= 12 * GIB < found.strips[2]
    assert found.least == found.strips[45] > found.params
    with pytest.raises(ValueError, match=r"even in strips, and 4 are given"):
        found.strips_within(4 * GIB)


def test_a_residual_decoder_on_a_small_picture():
    found = _needed(TINY, 32, 48)
    assert list(found.strips) == [1, 2]
    assert found.strips[2] < found.strips[1]
