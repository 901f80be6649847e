"""The estimate of memory: against measured peaks, and what is said where a run cannot fit."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import small_model

from skipsr_jax.errors import UserError
from skipsr_jax.inference import cost
from skipsr_jax.inference.cost import described, largest_need, memory_need
from skipsr_jax.inference.model import Model, load_model
from skipsr_jax.inference.settings import Chunk, Mask, Settings
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import abstract, to_dict
from skipsr_jax.models.presets import DIT_PRESETS, LIGHT_CODER_PRESETS, VAE_PRESETS
from skipsr_jax.models.vae import VAE

GIB = 2**30
CODERS = {"full": (VAE, VAE_PRESETS), "light": (LightCoder, LIGHT_CODER_PRESETS)}


def shapes_of(name, coder):
    kinds = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    network, presets = CODERS[coder]
    module = abstract(lambda rngs: network(presets[name], rngs=rngs, **kinds))
    dit = abstract(lambda rngs: DiT(DIT_PRESETS[name], rngs=rngs, **kinds))
    text = {"positive": jax.ShapeDtypeStruct((58, 5120), jnp.bfloat16)}
    params = {"coder": to_dict(module), "dit": to_dict(dit), "text": text}
    return Model("shapes", module, dit, None, params)


@pytest.mark.parametrize(
    "coder,frames,size,slice_latents,measured",
    [  # peaks of benchmarks.end_to_end on one H200, dense (docs/performance.md)
        ("full", 1, (720, 1280), 1, 14.3),
        ("full", 101, (720, 1280), 1, 19.2),
        ("full", 101, (1080, 1920), 1, 38.1),
        ("full", 21, (1440, 2560), 1, 60.8),
        ("light", 101, (720, 1280), 5, 11.57),
    ],
)
def test_the_3b_model_on_a_gpu(monkeypatch, coder, frames, size, slice_latents, measured):
    monkeypatch.setattr(cost, "_platform", lambda model: "gpu")
    monkeypatch.setattr(cost, "memory_limit", lambda model: None)
    settings = Settings(checkpoint="shapes", slice_latents=slice_latents)
    need = memory_need(shapes_of("seedvr2_3b", coder), settings, (frames, size))
    assert need.total / GIB == pytest.approx(measured, rel=0.15)
    assert need.held["parameters of the transformer"] / GIB == pytest.approx(6.32, rel=0.01)


@pytest.mark.parametrize(
    "frames,size,compiled,measured",
    [
        (60, (192, 256), False, 1.75),
        (60, (192, 256), True, 1.09),
        (17, (192, 320), False, 1.62),
        (9, (576, 704), False, 3.67),
        (17, (576, 704), False, 3.78),
        (17, (576, 704), True, 3.12),
        (5, (720, 1280), True, 6.79),
        (9, (720, 1280), False, 7.46),
        (25, (720, 1280), False, 7.79),
    ],
)
def test_the_tiny_model_on_a_cpu(frames, size, compiled, measured):
    """Resident memory of processes on two cores, which compiled all programs or loaded all."""
    settings = Settings(checkpoint="checkpoints/tiny", dtype="float32", coder="full")
    need = memory_need(described(settings), settings, (frames, size), compiled)
    assert need.total / GIB == pytest.approx(measured, rel=0.15)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("cost") / "m", light_coder=True)
    settings = Settings(checkpoint=path, coder="full", chunk=Chunk(101, 5), mask=Mask("none"))
    return settings, described(settings)


def test_longer_clips_need_no_more_than_a_chunk(small):
    settings, model = small
    one, chunk, long = (
        memory_need(model, settings, (frames, (64, 96))).total for frames in (1, 101, 5000)
    )
    assert one < chunk == long
    larger = memory_need(model, settings, (101, (128, 96))).total
    assert larger > chunk


def test_what_cannot_fit_is_one_line_with_what_would(small, monkeypatch):
    settings, model = small
    clips = [(9, (64, 96)), (200, (512, 512))]
    need = memory_need(model, settings, clips[1])
    monkeypatch.setattr(cost, "memory_limit", lambda model: need.total)
    assert largest_need(model, settings, clips) == need
    assert f"about {need.total / GIB:.1f} GiB on the cpu: the process" in str(need)
    monkeypatch.setattr(cost, "memory_limit", lambda model: need.total - 1)
    with pytest.raises(UserError) as raised:
        largest_need(model, settings, clips)
    said = str(raised.value)
    assert "\n" not in said and said.startswith("512x512, 200 frames, needs about")
    light = dataclasses.replace(settings, coder="light")
    less = memory_need(described(light), light, clips[1])
    assert less.total < need.total
    assert f"config.coder=light needs {less.total / GIB:.1f}" in said
    monkeypatch.setattr(cost, "memory_limit", lambda model: 1)
    with pytest.raises(UserError, match=r"take a smaller size .*config\.mesh\.seq"):
        largest_need(model, settings, clips)


def test_shapes_stand_for_the_parameters_that_are_loaded(small):
    settings, model = small
    loaded = load_model(settings.checkpoint, "float32", settings.mask, None, "full")
    assert cost._bytes(loaded.params, loaded) == cost._bytes(model.params, loaded)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)


def test_frames_have_to_fit_on_the_host_beside_a_device(small, monkeypatch):
    settings, model = small
    monkeypatch.setattr(cost, "_platform", lambda model: "gpu")
    monkeypatch.setattr(cost, "memory_limit", lambda model: None)
    process = cost.PROCESS_BYTES + cost.COMPILER_BYTES
    monkeypatch.setattr(cost, "host_limit", lambda: process + 90 * 512 * 512 * 3)
    assert largest_need(model, settings, [(200, (512, 512))]).platform == "gpu"
    with pytest.raises(UserError, match=r"frames of 528x512 need .* on the host.*config\.size"):
        largest_need(model, settings, [(9, (64, 96)), (200, (512, 528))])
