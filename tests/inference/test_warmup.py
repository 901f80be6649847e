"""After a warm-up no mask of a clip asks for another program of the transformer."""

import dataclasses
import pathlib
import runpy

import jax.numpy as jnp
import numpy as np
import pytest
import small_model

from skipsr_jax.inference.chunks import overlapping
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.settings import Chunk, from_config
from skipsr_jax.inference.stages import Stages
from skipsr_jax.inference.warmup import chunk_lengths, warm_up
from skipsr_jax.tokens.buckets import TOKEN_FLOOR, ladder, rung

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("frames", [1, 3, 9, 10, 17, 20, 33, 34])
@pytest.mark.parametrize("overlap", [0, 2])
def test_the_lengths_are_those_of_the_chunks(frames, overlap):
    chunks = overlapping(np.zeros((frames, 1)), 9, overlap)
    found = {len(chunk) for chunk, _ in chunks}
    assert set(chunk_lengths(frames, Chunk(9, overlap))) == found
    assert chunk_lengths(None, Chunk(9, overlap)) == (9,)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_ladder_has_a_rung_for_every_number_of_tokens(shards):
    rungs = ladder(40, 3000, shards)
    assert list(rungs) == sorted(set(rungs)) and rungs[-1] >= 3000
    for tokens in (40, 64, 65, 1000, 2999, 3000):
        assert -(-rung(tokens, TOKEN_FLOOR) // shards) * shards in rungs
    assert ladder(5, 6) == (64,)


@pytest.mark.slow
def test_no_mask_asks_for_another_program(tmp_path):
    path = small_model.write_small_model(tmp_path / "model")
    stages = Stages(load_model(path, "float32", with_predictor=True))
    config = runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]()
    settings = dataclasses.replace(from_config(config), chunk=Chunk(5, 0))
    lines = list(warm_up((28, 28), (112, 112), 5, stages, settings, fewest=0.4))
    # 2 x 7 x 7 patches: from 39 to 98 kept ones.
    assert lines[0].startswith("28x28 -> 112x112, 5 frames: first frame after")
    assert lines[1].startswith("  2 buckets of 64 to 128 tokens")
    compiled = stages.compiled_transformers
    assert compiled == 2
    rng = np.random.default_rng(0)
    latent = jnp.zeros((1, 2, 14, 14, 16), np.float32)
    for kept in (39, 64, 65, 98):
        keep = np.zeros(98, bool)
        keep[rng.permutation(98)[:kept]] = True
        stages.refine(latent, keep.reshape(2, 7, 7), latent, settings.sampler)
    assert stages.compiled_transformers == compiled
