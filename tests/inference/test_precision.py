"""The precision of a run: from the settings, the checkpoint and the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model
from small_model import DIT_CONFIG, write_small_model

from benchmarks.models import abstract_dit
from skipsr_jax.checkpoints import convert, export, store
from skipsr_jax.config import to_json
from skipsr_jax.errors import UserError
from skipsr_jax.inference import precision
from skipsr_jax.inference.api import Upscaler
from skipsr_jax.inference.cost import described
from skipsr_jax.inference.model import load_model, open_model
from skipsr_jax.inference.programs import description
from skipsr_jax.inference.settings import Mask, Settings
from skipsr_jax.kernels.convolution.weights import as_kernel
from skipsr_jax.kernels.quantized import PRECISIONS, Quantized, dequantize_kernel
from skipsr_jax.kernels.target import Target
from skipsr_jax.models.adapter import Adapter, adapter_shapes, with_adapter
from skipsr_jax.models.params import flatten
from skipsr_jax.models.quantized_params import quantized_convolutions
from skipsr_jax.models.vae import VAEConfig

HOPPER, AMPERE = Target("gpu", (9, 0)), Target("gpu", (8, 0))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The small model as it is, and exported with fp8 kernels."""
    root = tmp_path_factory.mktemp("precision")
    plain = write_small_model(root / "plain")
    argv = ["export", *(f"--{part}={plain}" for part in ("dit", "vae", "predictor"))]
    assert export.main([*argv, f"--out={root}/fp8", "--precision=fp8"]) == 0
    return {"bf16": plain, "fp8": f"{root}/fp8"}


def load(path, asked="auto", dtype="float32"):
    return load_model(path, dtype, precision=asked, any_device=True)


def arrays(model):
    flat = flatten(model.params["dit"])
    return {path: np.asarray(array.astype(jnp.float32)) for path, array in flat.items()}


def test_an_exported_checkpoint_is_what_loading_makes_of_the_plain_one(checkpoints):
    stored, made = load(checkpoints["fp8"]), load(checkpoints["bf16"], "fp8")
    assert stored.products == made.products == "fp8"
    kernel = stored.params["dit"]["mm_blocks"]["vid"]["qkv"]["quantized_kernel"]
    assert kernel.dtype == "float8_e4m3fn"
    a, b = arrays(stored), arrays(made)
    assert a.keys() == b.keys() and sum(path.endswith("quantized_kernel") for path in a) == 15
    assert all((a[path] == b[path]).all() for path in a)


def test_bf16_undoes_a_quantised_checkpoint(checkpoints):
    whole, plain = load(checkpoints["fp8"], "bf16"), load(checkpoints["bf16"])
    assert whole.products == plain.products == "float32"
    a, b = arrays(whole), arrays(plain)
    assert a.keys() == b.keys()
    for path, kernel in b.items():
        within = 1 / 16 if "blocks" in path and path.endswith("kernel") else 0
        largest = np.abs(kernel).max()
        assert np.allclose(a[path], kernel, rtol=within, atol=within * 2**-6 * largest), path


def test_half_precision_keeps_kernels_and_scales(checkpoints):
    exact = arrays(load(checkpoints["fp8"]))
    half = arrays(load(checkpoints["fp8"], dtype="bfloat16"))
    for path in exact:
        if path.endswith(("quantized_kernel", "kernel_scale")):
            np.testing.assert_array_equal(exact[path], half[path])


def test_programs_of_other_precisions_are_others(checkpoints):
    model = load(checkpoints["bf16"])
    models = [
        dataclasses.replace(model, dit=precision.transformer(model.dit.config, name, jnp.float32))
        for name in PRECISIONS
    ]
    assert len({description(model) for model in models}) == 3


@pytest.mark.parametrize(
    ("asked", "stored", "target", "found"),
    [
        ("auto", "bf16", Target("cpu"), "bf16"),
        ("auto", "fp8", HOPPER, "fp8"),
        ("bf16", "fp8", Target("cpu"), "bf16"),
        ("int8", "bf16", Target("tpu"), "int8"),
        ("fp8", "bf16", Target("cpu"), "config.precision=fp8: a cpu .* take bf16"),
        ("auto", "fp8", AMPERE, r"config.precision=auto \(fp8 kernels\): .* take int8 or bf16"),
        ("fp8", "bf16", Target("tpu"), "take int8 or bf16"),
        ("int8", "fp8", HOPPER, "model has fp8 kernels, .* take fp8 or bf16"),
    ],
)
def test_what_runs(asked, stored, target, found, monkeypatch):
    monkeypatch.setattr(precision, "current_target", lambda: target)
    if found in ("bf16", "fp8", "int8"):
        assert precision.precision_of_run(asked, stored, "model") == found
    else:
        with pytest.raises(UserError, match=found):
            precision.precision_of_run(asked, stored, "model")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU refuses both formats")
def test_loading_for_a_cpu_is_refused_before_anything_is_read(checkpoints, monkeypatch):
    monkeypatch.setattr(store, "restore_params", None)
    with pytest.raises(UserError, match="a cpu has no matrix unit for int8: take bf16"):
        load_model(checkpoints["bf16"], "auto", precision="int8")


WIDE = VAEConfig((128, 128, 8, 8), layers_per_block=1, norm_groups=4)


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """The small model with convolutions of 128 channels."""
    monkeypatch.setattr(small_model, "VAE_CONFIG", WIDE)
    return write_small_model(tmp_path / "wide")


def test_wide_convolutions_are_quantised_when_they_are_loaded(wide):
    asked = {"coder_precision": "fp8", "any_device": True}
    shapes = open_model(wide, "float32", **asked).params["coder"]
    model = load_model(wide, "float32", **asked)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), model.params["coder"]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    layers = quantized_convolutions(model.params["coder"])
    assert (model.coder_products, model.products) == ("fp8", "float32")
    kernel = read_kernel(wide, layers[0])
    found = flatten(model.params["coder"])
    taps = as_kernel(found[f"{layers[0]}/quantized_taps"]).astype(jnp.float32)
    restored = np.asarray(taps * found[f"{layers[0]}/taps_scale"])
    largest = np.abs(kernel).max()
    np.testing.assert_allclose(restored, kernel, rtol=1 / 16, atol=2**-10 * largest)
    changed = dataclasses.replace(model, coder=load(wide).coder)
    assert description(model) != description(changed)


@pytest.mark.parametrize("asked", PRECISIONS)
def test_the_transformers_precision_leaves_convolutions_as_they_are(wide, asked):
    model = load(wide, asked)
    assert not quantized_convolutions(model.params["coder"])
    assert model.coder_products == "float32"


def test_a_coder_without_wide_convolutions_is_refused(checkpoints):
    with pytest.raises(UserError, match="plain has multiples of 128 channels: take bf16"):
        load_model(checkpoints["bf16"], "float32", coder_precision="fp8", any_device=True)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU refuses fp8")
def test_every_way_to_a_model_takes_the_coders_precision(wide):
    settings = Settings(checkpoint=wide, coder_precision="fp8", mask=Mask("none"))
    for make in (described, Upscaler):
        with pytest.raises(UserError, match=r"coder_precision=fp8: .* this is a cpu: take bf16"):
            make(settings)


def read_kernel(path, layer):
    params = store.restore_params(path, only=("vae",), dtype="float32")["vae"]
    return np.asarray(flatten(params)[f"{layer}/kernel"])


FAST = {"asked": "fp8", "coder": "full", "dtype": jnp.bfloat16}


@pytest.mark.parametrize(
    ("change", "target", "found"),
    [
        ({}, HOPPER, "fp8"),
        ({"asked": "bf16", "dtype": jnp.float32, "devices": 2}, Target("cpu"), None),
        ({"dtype": jnp.float32, "any_device": True}, Target("cpu"), "fp8"),
        ({"coder": "light"}, HOPPER, r"set config\.coder=full, or take bf16"),
        ({"coder": "light", "any_device": True}, HOPPER, r"set config\.coder=full, or take bf16"),
        ({"devices": 2}, HOPPER, r"2 share each clip: leave out config\.mesh, or take bf16"),
        ({"devices": 2, "any_device": True}, HOPPER, "2 share each clip"),
        ({"dtype": jnp.float32}, HOPPER, r"set config\.dtype=bfloat16, or take bf16"),
        ({}, Target("gpu", (8, 9)), r"capability 9\.x .* one of 8\.9: take bf16"),
        ({}, Target("gpu", (10, 0)), r"capability 9\.x .* one of 10\.0: take bf16"),
        ({}, Target("tpu"), "this is a tpu: take bf16"),
    ],
)
def test_where_convolutions_are_fp8(change, target, found, monkeypatch):
    monkeypatch.setattr(precision, "current_target", lambda: target)
    if found in (None, "fp8"):
        format = precision.coder_format(**FAST | change)
        assert (None if format is None else format.name) == found
    else:
        with pytest.raises(UserError, match=rf"config\.coder_precision=fp8: .*{found}"):
            precision.coder_format(**FAST | change)


def test_other_tools_refuse_quantised_kernels(checkpoints, tmp_path):
    with pytest.raises(UserError, match="kernels are fp8; official files hold unquantised"):
        convert.export_official(checkpoints["fp8"], str(tmp_path / "out"), "safetensors")
    with pytest.raises(UserError, match="kernels are fp8 already: leave out --precision"):
        export.merge(str(tmp_path / "again"), {"dit": checkpoints["fp8"]}, precision="int8")
    export.merge(str(tmp_path / "same"), {"dit": checkpoints["fp8"]}, dtype="bfloat16")
    assert store.load_config(tmp_path / "same")["precision"] == "fp8"


@pytest.mark.slow
def test_an_adapter_is_merged_into_unquantised_kernels_where_there_are_some(checkpoints, tmp_path):
    adapter = Adapter(2, targets=("qkv",), alpha=2.0)
    shapes = adapter_shapes(with_adapter(abstract_dit(DIT_CONFIG, np.float32), adapter))
    ones = jax.tree.map(lambda x: np.full(x.shape, 0.1, np.float32), shapes)
    config = {"adapter": to_json(adapter), "base": to_json(DIT_CONFIG), "base_checkpoint": ""}
    store.save_model(tmp_path / "lora", {"adapter": ones}, config)

    def kernel(path, asked="auto", adapter=""):
        model = load_model(path, "float32", precision=asked, adapter=adapter, any_device=True)
        assert model.adapter == (f"{adapter}/0 (rank 2)" if adapter else "")
        qkv = model.params["dit"]["mm_blocks"]["vid"]["qkv"]
        if "kernel" in qkv:
            return np.asarray(qkv["kernel"])
        stored = Quantized(qkv["quantized_kernel"], qkv["kernel_scale"])
        return np.asarray(dequantize_kernel(stored, jnp.float32))

    lora, update = str(tmp_path / "lora"), 0.02
    plain = kernel(checkpoints["bf16"])
    np.testing.assert_allclose(kernel(checkpoints["bf16"], adapter=lora), plain + update, atol=1e-6)
    within = np.abs(plain).max() / 16
    for path, asked in ((checkpoints["bf16"], "fp8"), (checkpoints["fp8"], "auto")):
        np.testing.assert_allclose(kernel(path, asked, lora), plain + update, atol=within)
    stored = kernel(checkpoints["fp8"], "bf16")
    made = kernel(checkpoints["fp8"], "bf16", lora)
    np.testing.assert_allclose(made, stored + update, atol=1e-6)  # not quantised again
