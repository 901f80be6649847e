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
    "coder,frames,size,loaded,compiled",
    [  # resident memory of processes on two cores (docs/performance.md)
        ("light", 33, (192, 256), 0.60, 0.99),
        ("light", 33, (360, 640), 0.83, 1.16),
        ("light", 17, (576, 704), 0.91, 1.27),
        ("light", 66, (576, 704), 0.89, 1.31),
        ("light", 33, (720, 1280), 1.34, 1.69),
        ("light", 33, (960, 1280), 1.49, 1.95),
        ("light", 9, (1080, 1920), 1.95, 2.29),
        ("full", 17, (192, 256), 0.96, 1.77),
        ("full", 9, (576, 704), 3.08, 3.81),
        ("full", 9, (720, 1280), 6.95, 7.43),
    ],
)
def test_the_tiny_model_on_a_cpu(coder, frames, size, loaded, compiled):
    """Processes that loaded all of their programs, and ones that compiled them."""
    chunk = Chunk(33, 4)
    settings = Settings(checkpoint="checkpoints/tiny", dtype="float32", coder=coder, chunk=chunk)
    for missing, measured in ((0.0, loaded), (1.0, compiled)):
        need = memory_need(described(settings), settings, (frames, size), missing)
        assert need.total / GIB == pytest.approx(measured, rel=0.15)


def test_what_the_mask_predictor_takes_is_counted(monkeypatch):
    """It alone took 279 MiB for 33 frames of 320x180, of which 59 MiB were their energies."""
    settings = Settings(checkpoint="checkpoints/tiny", dtype="float32")
    model = described(settings)
    need = memory_need(model, settings, (33, (720, 1280)))
    taken = need.stages["the mask predictor at work"]
    assert taken / 2**20 == pytest.approx(279 - 59, rel=0.15)
    none = dataclasses.replace(model, predictor=None)
    assert memory_need(none, settings, (33, (720, 1280))).stages["the mask predictor at work"] == 0
    monkeypatch.setattr(cost, "_platform", lambda model: "gpu")
    on_gpu = memory_need(model, settings, (33, (720, 1280)))
    assert 0 < on_gpu.stages["the mask predictor at work"] < taken


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("cost") / "m", light_coder=True)
    settings = Settings(checkpoint=path, coder="full", chunk=Chunk(101, 5), mask=Mask("none"))
    return settings, described(settings)


def test_a_cpu_compiles_what_is_missing(small):
    settings, model = small
    none, some, all_of_it = (
        memory_need(model, settings, (9, (64, 96)), missing).total for missing in (0.0, 0.4, 1.0)
    )
    assert all_of_it - none == cost.COMPILER_BYTES["full"]
    assert some - none == int(0.4 * cost.COMPILER_BYTES["full"])


def test_longer_clips_need_no_more_than_two_chunks(small):
    settings, model = small
    one, chunk, two, long = (
        memory_need(model, settings, (frames, (64, 96))).total for frames in (1, 101, 102, 5000)
    )
    assert one < chunk < two == long
    assert two - chunk == settings.chunk.overlap * 64 * 96 * 3 * 4  # frames to be blended
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


def test_other_precisions_are_tried(small, monkeypatch):
    settings, model = small
    asked = []
    monkeypatch.setattr(cost, "described", lambda other: asked.append(other) or model)
    names = [name for name, _ in cost.alternatives(model, settings, (9, (64, 96)))]
    assert [(other.precision, other.coder_precision) for other in asked][1:4] == [
        ("fp8", "bf16"), ("int8", "bf16"), ("auto", "fp8")
    ]  # fmt: skip
    assert "config.coder_precision=fp8" in names


def test_shapes_stand_for_the_parameters_that_are_loaded(small):
    settings, model = small
    loaded = load_model(settings.checkpoint, "float32", settings.mask, None, "full")
    assert cost._bytes(loaded.params, loaded) == cost._bytes(model.params, loaded)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)


def test_frames_have_to_fit_on_the_host_beside_a_device(small, monkeypatch):
    settings, model = small
    monkeypatch.setattr(cost, "_platform", lambda model: "gpu")
    monkeypatch.setattr(cost, "memory_limit", lambda model: None)
    process = cost.PROCESS_BYTES + cost.COMPILER_BYTES["full"]
    monkeypatch.setattr(cost, "host_limit", lambda: process + 90 * 512 * 512 * 3)
    assert largest_need(model, settings, [(200, (512, 512))]).platform == "gpu"
    with pytest.raises(UserError, match=r"frames of 528x512 need .* on the host.*config\.size"):
        largest_need(model, settings, [(9, (64, 96)), (200, (512, 528))])
