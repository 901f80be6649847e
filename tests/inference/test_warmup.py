"""After a warm-up no mask of a clip asks for another program of the transformer."""

import dataclasses
import pathlib
import runpy
import types

import jax.numpy as jnp
import numpy as np
import pytest
import small_model

from skipsr_jax.inference.chunks import overlapping
from skipsr_jax.inference.coder import Coder
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.program_cache import ProgramCache
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Chunk, Mask, from_config
from skipsr_jax.inference.upscaled_input import upscale_slice
from skipsr_jax.inference.warmup import chunk_lengths, coding_programs, warm_up

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("frames", [1, 3, 9, 10, 17, 20, 33, 34])
@pytest.mark.parametrize("overlap", [0, 2])
def test_the_lengths_are_those_of_the_chunks(frames, overlap):
    chunks = overlapping(np.zeros((frames, 1)), 9, overlap)
    found = {len(chunk) for chunk, _ in chunks}
    assert set(chunk_lengths(frames, Chunk(9, overlap))) == found
    assert chunk_lengths(None, Chunk(9, overlap)) == (9,)


class RecordingCoder(Coder):
    """A coder that notes how many blocks it is asked to code."""

    def __init__(self, model):
        self._model = model
        self.asked = {"encode": [], "decode": []}

    def encode(self, slices, noise, plan):
        self.asked["encode"].append(tuple(len(blocks.block_index) for blocks in plan.blocks))
        assert [part.shape for part in slices] == [(1, 1, 64, 112, 3), (1, 4, 64, 112, 3)]
        return noise

    def decode(self, latent, upscaled, plan):
        self.asked["decode"].append(tuple(len(blocks.block_index) for blocks in plan.blocks))
        assert latent.shape[1] == len(list(upscaled)) == len(plan.blocks)
        return latent


class Recorder(Programs):
    """Programs whose coder records."""

    masks_from_pixels = True

    def __init__(self):
        config = types.SimpleNamespace(latent_channels=16)
        coder = types.SimpleNamespace(config=config)
        self.model = types.SimpleNamespace(coder=coder, coder_kind="full", mesh=None, devices=1)
        self.upscale = ProgramCache().program("upscale", upscale_slice)
        self.coder = RecordingCoder(self.model)


def test_every_number_of_slots_runs_once_where_coding_may_be_sparse():
    config = runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]()
    settings = dataclasses.replace(from_config(config), encode="auto", decode="sparse")
    settings = dataclasses.replace(settings, sparse_up_to=0.5)
    programs = Recorder()
    clip = np.zeros((6, 16, 28, 3), np.uint8)
    lines = list(coding_programs(clip, (64, 112), programs, settings, 0.4))
    assert lines[0].startswith("  encode on 11 to 14 of 28 blocks in")
    assert programs.coder.asked["encode"] == [(28, n) for n in (11, 12, 13, 14)]
    assert programs.coder.asked["decode"] == [(28, n) for n in (*range(11, 17), *range(18, 29, 2))]
    dense = dataclasses.replace(settings, encode="dense", decode="dense")
    assert not list(coding_programs(clip, (64, 112), programs, dense, 0.4))


@pytest.mark.slow
def test_no_mask_asks_for_another_program(tmp_path):
    path = small_model.write_small_model(tmp_path / "model")
    programs = Programs(load_model(path, "float32", Mask("predictor")))
    config = runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]()
    settings = dataclasses.replace(from_config(config), chunk=Chunk(5, 0))
    lines = list(warm_up((28, 28), (112, 112), 5, programs, settings, fewest=0.4))
    # 2 x 7 x 7 patches: from 39 to 98 kept ones.
    assert lines[0].startswith("28x28 -> 112x112, 5 frames: first frame after")
    assert lines[1].startswith("  2 buckets of 64 to 128 tokens")
    compiled = programs.compiled_transformers
    assert compiled == 2
    rng = np.random.default_rng(0)
    latent = jnp.zeros((1, 2, 14, 14, 16), np.float32)
    for kept in (39, 64, 65, 98):
        keep = np.zeros(98, bool)
        keep[rng.permutation(98)[:kept]] = True
        programs.refine(latent, keep.reshape(2, 7, 7), latent, settings.sampler)
    assert programs.compiled_transformers == compiled
