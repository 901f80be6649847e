"""The compiled programs: what they depend on, and what they leave alone."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model
from flax import nnx

from skipsr_jax.errors import UserError
from skipsr_jax.inference.coding_plan import CodingPlan
from skipsr_jax.inference.masks import keep_mask
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.programs import Programs, compiler_options
from skipsr_jax.inference.settings import Mask, Sampler
from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.kernels.target import Target
from skipsr_jax.models.params import to_dict
from skipsr_jax.models.predictor import PredictorConfig, make_predictor
from skipsr_jax.parallel.mesh import MeshSizes, make_mesh, mesh_of
from skipsr_jax.tokens.plan import bucket_with_window_capacity

ONE_STEP = Sampler(steps=1, guidance=1.0, rescale=0.0, condition_noise=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("programs") / "model")
    return load_model(path, "float32", Mask("predictor"))


@pytest.fixture(scope="module")
def programs(model):
    return Programs(model)


def cut(frames, plan):
    return [frames[:, part] for part in plan.slices(frames.shape[1])]


def latent_of(grid, seed=0):
    shape = (1, grid[0], 2 * grid[1], 2 * grid[2], 16)
    return jax.random.normal(jax.random.key(seed), shape)


def test_one_program_for_two_resolutions_and_two_masks(model):
    """The compiled transformer depends on the bucket and the text length alone."""
    programs = Programs(model)
    rng = np.random.default_rng(0)
    buckets = set()
    for grid, share in (((2, 4, 6), 0.9), ((2, 4, 6), 0.7), ((1, 5, 8), 0.9), ((3, 3, 4), 0.8)):
        keep = rng.random(grid) < share
        latent = latent_of(grid)
        _, bucket = programs.refine(latent, keep, latent_of(grid, 1), ONE_STEP)
        buckets.add(bucket)
    assert len(buckets) == 1
    assert programs.compiled_transformers == 1


def test_the_result_does_not_depend_on_the_bucket(model):
    """Padding a chunk of few kept tokens to a bucket of many changes rounding at most."""
    grid = (2, 4, 6)
    keep = np.random.default_rng(2).random(grid) < 0.4
    refined, buckets = [], []
    for fine in (True, False):
        programs = Programs(model)
        programs.buckets.reserve([(3, 6, 9)])
        got, bucket = programs.refine(
            latent_of(grid), keep, latent_of(grid, 1), ONE_STEP, fine=fine
        )
        refined.append(np.asarray(got))
        buckets.append(bucket)
    assert 2 * buckets[0].tokens <= buckets[1].tokens
    np.testing.assert_allclose(refined[0], refined[1], atol=2e-5)
    assert np.abs(refined[0] - np.asarray(latent_of(grid))).max() > 0.1


def test_many_steps_share_the_program(programs):
    grid = (1, 3, 3)
    before = programs.compiled_transformers
    programs.refine(latent_of(grid), np.ones(grid, bool), latent_of(grid, 1), ONE_STEP)
    sampler = dataclasses.replace(ONE_STEP, steps=5)
    programs.refine(latent_of(grid), np.ones(grid, bool), latent_of(grid, 1), sampler)
    assert programs.compiled_transformers <= before + 1


def test_skipped_patches_keep_the_condition_and_kept_ones_change(programs):
    keep = np.random.default_rng(1).random((2, 3, 4)) < 0.5
    latent = latent_of(keep.shape)
    refined, bucket = programs.refine(latent, keep, latent_of(keep.shape, 1), ONE_STEP)
    assert bucket == bucket_with_window_capacity([keep])
    where = np.repeat(np.repeat(keep, 2, 1), 2, 2)
    changed = (np.asarray(refined) != np.asarray(latent)).any(-1)[0]
    np.testing.assert_array_equal(changed, where)


def test_everything_skipped_runs_nothing(model, monkeypatch):
    programs = Programs(model)

    def never(*_):
        raise AssertionError("the transformer ran")

    monkeypatch.setattr(programs, "_velocity", never)
    latent = latent_of((2, 2, 3))
    refined, bucket = programs.refine(latent, np.zeros((2, 2, 3), bool), latent, ONE_STEP)
    assert bucket is None
    assert refined is latent
    with pytest.raises(AssertionError, match="the transformer ran"):
        programs.refine(latent, np.ones((2, 2, 3), bool), latent, ONE_STEP)


def test_guidance_runs_both_texts_and_needs_the_negative_one(model):
    grid = (1, 2, 2)
    keep, latent, noise = np.ones(grid, bool), latent_of(grid), latent_of(grid, 1)
    guided = dataclasses.replace(ONE_STEP, guidance=3.0)
    programs = Programs(model)
    plain, _ = programs.refine(latent, keep, noise, ONE_STEP)
    strong, _ = programs.refine(latent, keep, noise, guided)
    text = model.params["text"]
    other = Programs(dataclasses.replace(
        model, params=model.params | {"text": {"positive": text["negative"]}}
    ))  # fmt: skip
    negative, _ = other.refine(latent, keep, noise, ONE_STEP)
    # One step: x0 = noise - v, so guidance acts on x0 as it does on v.
    want = negative + 3.0 * (plain - negative)
    np.testing.assert_allclose(np.asarray(strong), np.asarray(want), atol=1e-4)
    with pytest.raises(UserError, match=r"config\.sampler\.guidance=1"):
        other.refine(latent, keep, noise, guided)


def test_noise_on_the_condition_reaches_the_transformer_only(programs):
    grid = (2, 2, 2)
    keep = np.zeros(grid, bool)
    keep[0] = True
    latent, noise = latent_of(grid), latent_of(grid, 1)
    noised = dataclasses.replace(ONE_STEP, condition_noise=0.5)
    plain, _ = programs.refine(latent, keep, noise, ONE_STEP)
    other, _ = programs.refine(latent, keep, noise, noised, latent_of(grid, 2))
    assert np.abs(np.asarray(other - plain))[:, 0].max() > 1e-3
    np.testing.assert_array_equal(np.asarray(other)[:, 1], np.asarray(latent)[:, 1])


def all_stages(path, mesh):
    """Every stage of one clip of 32 x 128 pixels, on the mesh; and the parameters."""
    model = load_model(path, "float32", Mask("predictor"), mesh=mesh)
    programs = Programs(model)
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (1, 5, 32, 128, 3)).astype(np.float32)
    noise = jnp.asarray(rng.normal(size=(1, 2, 4, 16, 16)).astype(np.float32))
    two = CodingPlan(slice_latents=2)
    latent = programs.coder.encode(cut(frames, two), noise, two)
    keep = rng.random((2, 2, 8)) < 0.6
    refined, bucket = programs.refine(latent, keep, noise[:, :, ::-1], ONE_STEP)
    assert bucket.tokens % mesh.size == 0
    decoded = list(programs.coder.decode(refined, cut(frames, two), two))
    results = (latent, programs.latent_logits(latent), refined, *decoded)
    return [np.asarray(x) for x in results], model.params, decoded


@pytest.fixture(scope="module", params=["full", "light"])
def on_one_device(request, tmp_path_factory):
    """The checkpoint with each coder, and every stage's results on one device."""
    folder, light = tmp_path_factory.mktemp("mesh") / "model", request.param == "light"
    path = small_model.write_small_model(folder, light_coder=light)
    return path, all_stages(path, mesh_of(MeshSizes(1, 1, 1)))[0]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 2, 2), (8, 1, 1), (2, 2, 2)])
def test_a_mesh_gives_what_one_device_gives(sizes, on_one_device):
    path, want = on_one_device
    mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    got, params, decoded = all_stages(path, mesh)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())
    kernel = params["dit"]["shared_blocks"]["all"]["qkv"]["kernel"]
    part = kernel.addressable_shards[0].data.shape
    assert part == (*kernel.shape[:2], kernel.shape[2] // sizes[1])
    assert decoded[0].addressable_shards[0].data.shape == (1, 1, 32, 128 // mesh.size, 3)


def test_logits_are_one_per_patch(programs):
    assert programs.latent_logits(latent_of((2, 3, 4))).shape == (1, 2, 3, 4)


def test_a_predictor_on_pixels_needs_no_latent(model):
    config = PredictorConfig(width=4, space="pixels", filters=2)
    on_pixels = make_predictor(config, rngs=nnx.Rngs(0))
    params = model.params | {"predictor": to_dict(on_pixels)}
    programs = Programs(dataclasses.replace(model, predictor=on_pixels, params=params))
    assert programs.masks_from_pixels and not Programs(model).masks_from_pixels
    frames = np.random.default_rng(0).integers(0, 255, (5, 8, 12, 3), dtype=np.uint8)
    logits = np.asarray(on_pixels(jnp.asarray(frames[None] / np.float32(255))))[0]
    middle = float(np.median(logits))
    mask = Mask("predictor", probability=float(1 / (1 + np.exp(-middle))))
    keep = keep_mask(mask, programs, frames, None, (32, 48))(None)
    clear = np.abs(logits - middle) > 1e-4
    np.testing.assert_array_equal(keep[clear], logits[clear] >= middle)
    assert keep.shape == (2, 2, 3) and 0 < keep.mean() < 1


@pytest.mark.parametrize(
    ("format", "platform", "options"),
    [
        (None, "gpu", {}),
        (FORMATS["fp8"], "cpu", {}),
        (FORMATS["fp8"], "gpu", {"xla_gpu_enable_triton_gemm": False}),
    ],
)
def test_quantised_products_on_gpus_are_left_to_cublas(format, platform, options):
    found = compiler_options(format, Target(platform))
    assert found == options
    # XLA knows the option: it refuses one that it does not.
    jax.jit(lambda x: x + 1, compiler_options=found).lower(1.0).compile()
