"""The autoencoder over the slices of a chunk: slices and tiles change memory, not results."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model

from skipsr_jax.errors import UserError
from skipsr_jax.inference.coder import Coder, _two_at_a_time
from skipsr_jax.inference.coding_plan import DENSE, SKIP, CodingPlan, sparse_plan
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.program_cache import ProgramCache
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.light_coder.memory import slice_bytes
from skipsr_jax.models.params import abstract
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.models.vae.model import Posterior
from skipsr_jax.tokens.blocks import plan_blocks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("coder") / "model")
    return load_model(path, "float32")


LIGHT = abstract(lambda rngs: LightCoder(small_model.LIGHT_CONFIG, rngs=rngs))


@pytest.fixture(scope="module")
def coder(model):
    return Coder(model, ProgramCache().program)


def cut(frames, plan):
    return [frames[:, part] for part in plan.slices(frames.shape[1])]


def test_plans_say_which_slices_and_how_many_blocks_run():
    assert DENSE.slices(8) == [slice(0, 1), slice(1, 5), slice(5, 9)]
    assert CodingPlan(slice_latents=2).slices(13) == [slice(0, 1), slice(1, 9), slice(9, 13)]
    keep = np.zeros((3, 2, 4), bool)
    keep[1:, 0] = True
    sparse = CodingPlan("sparse", blocks=tuple(plan_blocks(keep)))
    assert sparse.slices(9) == SKIP.slices(9) == DENSE.slices(9)
    assert [plan.blocks_run(keep.shape) for plan in (DENSE, sparse, SKIP)] == [24, 16, 0]


def test_sparse_plans_of_both_coders():
    keep = np.zeros((4, 8, 8), bool)
    assert sparse_plan("full", keep[:1], 1) is sparse_plan("light", keep[:1], 1) is None
    assert sparse_plan("full", ~keep, 1) is sparse_plan("light", ~keep, 2) is None
    keep[1, 0] = keep[3, 0, 0] = True
    full, light = sparse_plan("full", keep, 1), sparse_plan("light", keep, 1)
    assert (full.slots, full.all_blocks, full.sparse_slices) == (8, 64, 3)
    assert (light.slots, light.all_blocks, light.sparse_slices) == (2, 4, 3)
    assert light.blocks_run(keep.shape) == 64 + 3 * 32
    of_two = sparse_plan("light", keep, 2, slots=3)
    assert of_two.slices(13) == [slice(0, 1), slice(1, 9), slice(9, 13)]
    assert (of_two.slots, of_two.all_blocks, of_two.sparse_slices) == (3, 8, 1)


def test_latents_are_as_large_as_the_token_grid_says(coder):
    assert coder.latent_shape((2, 3, 4)) == (1, 2, 6, 8, 16)


@pytest.mark.slow
def test_slices_and_tiles_do_not_change_results(coder):
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (1, 9, 16, 16, 3)).astype(np.float32)
    noise = jnp.asarray(rng.normal(size=(1, 3, 2, 2, 16)).astype(np.float32))
    whole, in_tiles = CodingPlan(slice_latents=2), CodingPlan(slice_latents=2, tiles=2)
    latent, *others = (
        coder.encode(cut(frames, plan), noise, plan) for plan in (DENSE, whole, in_tiles)
    )
    for other in others:
        np.testing.assert_allclose(other, latent, atol=1e-5)
    decoded, *others = (
        np.concatenate([np.asarray(x) for x in coder.decode(latent, cut(frames, plan), plan)], 1)
        for plan in (DENSE, whole, in_tiles)
    )
    assert decoded.shape == frames.shape
    for other in others:
        np.testing.assert_allclose(other, decoded, atol=1e-5)


def test_the_memory_limit_sets_the_number_of_tiles(coder, model):
    assert coder.tiles((64, 64), 1, 0.0) == 1  # a CPU does not say what it has
    estimate = estimate_memory(model.coder, 64, 64, 1)
    assert coder.tiles((64, 64), 1, estimate.by_tiles[1] / 2**30) == 1
    assert coder.tiles((64, 64), 1, estimate.by_tiles[2] / 2**30) == 2
    with pytest.raises(UserError, match=r"config\.vae_memory_gib=1e-06.* even in 4 spatial tiles"):
        coder.tiles((64, 64), 1, 1e-6)


def test_the_light_coder_takes_more_frames_at_a_time_on_accelerators(coder, model, monkeypatch):
    light = Coder(dataclasses.replace(model, coder=LIGHT), ProgramCache().program)
    assert light.dense_plan((720, 1280), 0, 0.0).slice_latents == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert light.dense_plan((720, 1280), 0, 0.0).slice_latents == 5
    assert light.dense_plan((2160, 3840), 0, 0.0).slice_latents == 1
    assert light.dense_plan((720, 1280), 3, 0.0).slice_latents == 3
    three = slice_bytes(LIGHT, 720, 1280, 3) / 2**30
    assert light.dense_plan((720, 1280), 0, three).slice_latents == 3
    with pytest.raises(
        UserError, match=r"vae_memory_gib=0\.001: the light coder takes .* 1280x720"
    ):
        light.dense_plan((720, 1280), 0, 0.001)
    assert coder.dense_plan((64, 64), 0, 0.0).slice_latents == 1


@pytest.mark.parametrize("platform,waited", [("cpu", [1, 2]), ("gpu", [])])
def test_a_cpu_encodes_two_slices_at_a_time(monkeypatch, platform, waited):
    posteriors = [Posterior(*[jnp.zeros((1, i, 2, 2, 3))] * 2) for i in (1, 2, 3)]
    found = []
    monkeypatch.setattr(jax, "block_until_ready", found.append)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    taken = _two_at_a_time(iter(posteriors))
    for number, posterior in enumerate(posteriors):
        assert next(taken) is posterior
        assert [x.mean.shape[1] for x in found if x is not None] == waited[:number]
    assert next(taken, None) is None
