"""Conversion there and back: every format and dtype byte for byte, and every refusal."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from skipsr_jax.checkpoints import (
    convert,
    keys,
    lazy,
    safetensors_file,
    staging,
    store,
    torch_file,
    torch_writer,
)
from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import SEEDVR2_3B, SEEDVR_7B
from skipsr_jax.models.params import flatten
from skipsr_jax.models.vae import VAEConfig

SIZES = {"width": 12, "text_width": 6, "heads": 2, "head_dim": 12, "layers": 3}
DIT_3B = dataclasses.replace(SEEDVR2_3B, **SIZES, rope_dim=12, mm_layers=2)
DIT_7B = dataclasses.replace(SEEDVR_7B, **SIZES, rope_dim=6, mm_layers=3)
VAE = VAEConfig(block_channels=(4, 4, 4, 8), layers_per_block=1, norm_groups=4)
WRITERS = {"pth": torch_writer, "safetensors": safetensors_file}
READERS = {"pth": torch_file, "safetensors": safetensors_file}


def made(config, dtype, prefix: str = "") -> dict[str, lazy.LazyTensor]:
    rng = np.random.default_rng(0)
    dtype = lazy.dtype_named(dtype)
    return {
        prefix + e.official: lazy.of_array(rng.normal(size=e.shape).astype(dtype))
        for e in keys.entries_of(config)
        if e.official is not None
    }


def same(path, tensors: dict[str, lazy.LazyTensor]) -> None:
    read = READERS[path.suffix[1:]].read(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape), name
        assert read[name].load().tobytes() == tensor.load().tobytes(), name


@pytest.mark.parametrize(
    "config,dtype,form",
    [
        (DIT_3B, "bfloat16", "pth"),
        (DIT_3B, "float32", "safetensors"),
        (DIT_7B, "float16", "safetensors"),
        (DIT_7B, "float8_e4m3fn", "pth"),
        (dataclasses.replace(DIT_3B, layers=2), "float16", "pth"),
    ],
)
def test_there_and_back_is_byte_identical(tmp_path, config, dtype, form):
    dit, vae = made(config, dtype), made(VAE, dtype)
    text = {"": lazy.of_array(np.ones((5, 6), ml_dtypes.bfloat16))}
    WRITERS[form].write(tmp_path / f"a.{form}", dit)
    WRITERS[form].write(tmp_path / f"b.{form}", vae)
    torch_writer.write(tmp_path / "pos.pt", text)
    out, back = tmp_path / "model", tmp_path / "back"
    said = convert.run(
        ["convert", f"--dit={tmp_path}/a.{form}", f"--vae={tmp_path}/b.{form}",
         f"--positive={tmp_path}/pos.pt", f"--out={out}"]
    )  # fmt: skip
    assert "dit (width 12, layers" in said and "positive" in said
    found = store.load_config(out)
    assert found["sources"]["dit"]["file"] == f"a.{form}"
    assert len(found["sources"]["positive"]["sha256"]) == 64
    assert found["dit"]["pixel_rope"] == config.pixel_rope
    convert.run(["convert", f"--checkpoint={out}", f"--out={back}", f"--to={form}"])
    assert sorted(p.name for p in back.iterdir()) == [f"dit.{form}", "pos_emb.pt", f"vae.{form}"]
    same(back / f"dit.{form}", dit)
    same(back / f"vae.{form}", vae)
    assert torch_file.read(back / "pos_emb.pt")[""].load().tobytes() == text[""].load().tobytes()
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {f"a.{form}", f"b.{form}", "pos.pt", "model", "back"}


def test_a_converted_model_restores_into_the_network(tmp_path):
    tensors = made(DIT_3B, "float16")
    torch_writer.write(tmp_path / "a.pth", tensors)
    convert.import_official(str(tmp_path / "m"), {"dit": str(tmp_path / "a.pth")}, {})
    abstract = {"dit": keys.abstract_params(DIT_3B)}
    params = store.restore_params(tmp_path / "m", abstract, dtype=np.float32)["dit"]
    got = params["shared_blocks"]["all"]["mlp"]["proj_out"]["kernel"][0]
    want = tensors["blocks.2.mlp.all.proj_out.weight"].load().T.astype(np.float32)
    np.testing.assert_array_equal(np.asarray(got), want)


def test_stacks_of_mixed_dtypes_come_back_as_they_were(tmp_path):
    eight = made(DIT_7B, "float8_e4m3fn")
    sixteen = made(DIT_7B, "float16")
    mixed = {k: sixteen[k] if k.startswith("blocks.2.") else eight[k] for k in eight}
    torch_writer.write(tmp_path / "mixed.pth", mixed)
    convert.import_official(str(tmp_path / "m"), {"dit": str(tmp_path / "mixed.pth")}, {})
    stored = flatten(store.stored_shapes(tmp_path / "m")["dit"])
    assert stored["mm_blocks/vid/qkv/kernel"].dtype == np.float16
    assert stored["vid_in/kernel"].dtype == ml_dtypes.float8_e4m3fn
    convert.export_official(str(tmp_path / "m"), str(tmp_path / "back"), "pth")
    same(tmp_path / "back" / "dit.pth", mixed)


def test_the_common_dtype_holds_all_exactly():
    def common(*names: str) -> str:
        return staging.common_dtype([lazy.dtype_named(name) for name in names], "x").name

    assert common("float16", "float16") == "float16"
    assert common("float8_e4m3fn", "float16") == "float16"
    assert common("float8_e4m3fn", "bfloat16") == "bfloat16"
    assert common("float16", "bfloat16") == "float32"
    assert common("float32", "bfloat16") == "float32"
    with pytest.raises(UserError, match="mix dtypes float16, int8"):
        common("int8", "float16")


def test_golden_models_convert_both_ways(golden, tmp_path):
    for path in sorted(golden.glob("*/weights.safetensors")):
        part = "vae" if "encoder.conv_in.weight" in safetensors_file.read(path) else "dit"
        out, back = tmp_path / path.parent.name, tmp_path / f"{path.parent.name}_back"
        convert.import_official(str(out), {part: str(path)}, {})
        convert.export_official(str(out), str(back), "safetensors")
        same(back / f"{part}.safetensors", safetensors_file.read(path))


def test_wrapped_and_sectioned_files(tmp_path):
    tensors = made(VAE, "float32")
    wrapped = made(VAE, "float32", "ema.module.") | made(VAE, "float16", "model.")
    torch_writer.write(tmp_path / "w.pth", wrapped)
    source = {"vae": str(tmp_path / "w.pth")}
    with pytest.raises(UserError, match=r"several sections \(ema, model\)"):
        convert.import_official(str(tmp_path / "m"), source, {})
    convert.import_official(str(tmp_path / "m"), source, {}, section="ema")
    convert.export_official(str(tmp_path / "m"), str(tmp_path / "back"), "pth")
    same(tmp_path / "back" / "vae.pth", tensors)


def test_all_that_does_not_fit_is_said_at_once_and_nothing_is_left(tmp_path, capsys):
    dit, vae = made(DIT_3B, "float32"), made(VAE, "float32")
    del dit["blocks.1.mlp.txt.proj_in.weight"]
    vae["decoder.conv_in.bias"] = lazy.of_array(np.zeros(9, np.float32))
    torch_writer.write(tmp_path / "d.pth", dit)
    torch_writer.write(tmp_path / "v.pth", vae)
    files = [f"--dit={tmp_path}/d.pth", f"--vae={tmp_path}/v.pth", f"--out={tmp_path}/m"]
    assert convert.main(["convert", *files]) == 1
    said = capsys.readouterr().err
    assert "2 tensors do not fit" in said
    assert "d.pth: missing blocks.1.mlp.txt.proj_in.weight" in said
    assert "v.pth: decoder.conv_in.bias has shape (9,), expected (8,)" in said
    assert {p.name for p in tmp_path.iterdir()} == {"d.pth", "v.pth"}


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, capsys, form):
    tensors, name = made(DIT_3B, "bfloat16"), "blocks.1.mlp.txt.proj_in.weight"
    array = tensors[name].load()
    array[3, 2] = np.nan
    tensors[name] = lazy.of_array(array)
    WRITERS[form].write(tmp_path / f"d.{form}", tensors)
    assert convert.main(["convert", f"--dit={tmp_path}/d.{form}", f"--out={tmp_path}/m"]) == 1
    said = capsys.readouterr().err
    assert f"d.{form}: {name} holds numbers that are not finite" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"d.{form}"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--dit={tmp}/absent.pth", "--out={tmp}/m"], "absent.pth: no such file"),
        (["--dit={tmp}/vae.pth", "--out={tmp}/m"], "not a SeedVR transformer"),
        (["--vae={tmp}/vae.pth", "--out={tmp}/vae.pth"], "exists already"),
        (["--vae={tmp}/vae.pth"], "--out is needed"),
        (["--out={tmp}/m"], "nothing to convert"),
        (["--out={tmp}/m", "--dit=a.pth", "--to=pth"], "--to is the format when converting back"),
        (["{tmp}/vae.pth", "--out={tmp}/m"], "belongs to no flag: write, for example, --dit="),
        (["--vea={tmp}/vae.pth", "--out={tmp}/m"], "Unknown command line flag 'vea'"),
        (["--checkpoint={tmp}/absent", "--out={tmp}/m"], "no such checkpoint"),
        (["--checkpoint=x", "--vae=y", "--out={tmp}/m"], "give it alone"),
        (["--checkpoint={tmp}/m", "--to=gguf", "--out={tmp}/m"], "pth"),
        (["--positive={tmp}/vae.pth", "--out={tmp}/m"], "a text embedding is one"),
    ],
)
def test_bad_command_lines(tmp_path, capsys, arguments, message):
    torch_writer.write(tmp_path / "vae.pth", made(VAE, "float32"))
    assert convert.main(["convert", *(a.format(tmp=tmp_path) for a in arguments)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("convert: ") and said.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"vae.pth"}


def test_a_config_that_does_not_describe_its_arrays(tmp_path):
    torch_writer.write(tmp_path / "v.pth", made(VAE, "float32"))
    convert.import_official(str(tmp_path / "m"), {"vae": str(tmp_path / "v.pth")}, {})
    file = tmp_path / "m" / "0" / "config" / "metadata"
    config = json.loads(file.read_text())
    config.pop("config_sha256")
    config["vae"]["layers_per_block"] = 2
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="its arrays are not those of its config"):
        convert.export_official(str(tmp_path / "m"), str(tmp_path / "back"), "pth")
    assert not (tmp_path / "back").exists()
