"""Tests of modules that are made of shapes alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.discriminator import Discriminator
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.layers.initial import around, drawn
from skipsr_jax.models.params import abstract
from skipsr_jax.models.predictor import PAPER, make_predictor
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.models.vae import SEEDVR, VAE
from tests.small_model import DIT_CONFIG

HALF = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
PIXELS = dataclasses.replace(PAPER, space="pixels")
BUILDS = {
    **{
        name: lambda rngs, config=config: DiT(config, rngs=rngs, **HALF)
        for name, config in DIT_PRESETS.items()
    },
    "vae": lambda rngs: VAE(SEEDVR, rngs=rngs, **HALF),
    "predictor": lambda rngs: make_predictor(PAPER, rngs=rngs, **HALF),
    "predictor of pixels": lambda rngs: make_predictor(PIXELS, rngs=rngs),
    "discriminator": lambda rngs: Discriminator(DIT_CONFIG, (1,), rngs=rngs),
}


@pytest.mark.parametrize("name", BUILDS)
def test_modules_of_shapes_are_those_that_tracing_gives(name):
    build = BUILDS[name]
    traced = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    structure, shapes = nnx.split(abstract(build))
    assert structure == traced[0]
    as_pairs = [
        jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))[0]
        for state in (shapes, traced[1])
    ]
    found, expected = ([(p, x.shape, x.dtype) for p, x in pairs] for pairs in as_pairs)
    assert found == expected


def test_vectors_are_drawn_around_their_mean():
    made = drawn(around(1.0), nnx.Rngs(0), (4096,), jnp.float32)[...]
    assert np.mean(made) == pytest.approx(1.0, abs=1e-3)
    assert np.std(made) == pytest.approx(1 / 64, rel=0.05)
