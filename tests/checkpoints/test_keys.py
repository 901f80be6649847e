"""The key tables, in full and in both directions, against the lists of the real models."""

import dataclasses
import json

import numpy as np
import pytest

from skipsr_jax.checkpoints import architecture, keys, lazy, safetensors_file, staging
from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import SEEDVR2_3B, SEEDVR_7B, DiTConfig
from skipsr_jax.models.params import flatten
from skipsr_jax.models.vae import SEEDVR, VAEConfig

REAL = {"keys_3b": SEEDVR2_3B, "keys_7b": SEEDVR_7B, "keys_vae": SEEDVR}
SMALL_DIT = dataclasses.replace(
    SEEDVR2_3B, width=12, text_width=6, heads=2, head_dim=12, rope_dim=12, layers=3, mm_layers=2
)


def recognise(shapes: dict, name: str, norm_groups: int | None = None) -> DiTConfig | VAEConfig:
    if architecture.is_vae(shapes):
        return architecture.vae_config(shapes, name, norm_groups)
    return architecture.dit_config(shapes, name)


def made(config, seed: int = 0) -> dict[str, lazy.LazyTensor]:
    """Official tensors of a network, all numbers different."""
    rng = np.random.default_rng(seed)
    named = [e for e in keys.entries_of(config) if e.official is not None]
    return {e.official: lazy.of_array(rng.normal(size=e.shape).astype(np.float32)) for e in named}


def params_of(entries, tensors, folder) -> dict[str, np.ndarray]:
    """Our flat parameters, put together in files of a new folder."""
    folder.mkdir()
    return staging.gather(entries, tensors, folder)


@pytest.mark.parametrize("name", REAL)
def test_every_key_and_shape_of_the_real_model(shared, name):
    listed = json.loads((shared / "golden" / f"{name}.json").read_text())
    shapes = {key: tuple(shape) for key, shape in listed["entries"].items()}
    assert recognise(shapes, name) == REAL[name]
    entries = keys.entries_of(REAL[name])
    assert {entry.official: entry.shape for entry in entries} == shapes
    assert len(entries) == len(shapes) == listed["n_entries"]
    buffers = set(listed["buffers"])
    trained = sum(int(np.prod(e.shape)) for e in entries if e.official not in buffers)
    assert trained == listed["n_parameters"]
    # And back: each layer of each of our arrays is one official tensor of the right shape.
    ours = flatten(keys.abstract_params(REAL[name]))
    layers = {(entry.path, entry.layer) for entry in entries}
    assert len(layers) == len(entries)
    for entry in entries:
        leaf = ours[entry.path]
        dummy = np.broadcast_to(np.uint8(0), entry.shape)
        layer_shape = leaf.shape if entry.layer is None else leaf.shape[1:]
        assert entry.to_ours(dummy).shape == layer_shape
        assert entry.to_official(entry.to_ours(dummy)).shape == entry.shape
    wanted = {
        (path, layer)
        for path, leaf in ours.items()
        for layer in ([None] if "_blocks" not in path.split("/")[0] else range(leaf.shape[0]))
    }
    if name != "keys_vae":
        assert layers == wanted


def test_golden_weights_fit_and_come_back(golden, tmp_path):
    found = sorted(golden.glob("*/weights.safetensors"))
    assert found
    for path in found:
        tensors = safetensors_file.read(path)
        case = json.loads((path.parent / "case.json").read_text())["constructor"]
        groups = case.get("norm_num_groups")  # which leave no trace in the weights
        config = recognise(architecture.shapes_of(tensors), str(path), groups)
        if isinstance(config, DiTConfig):
            names = {"width": "vid_dim", "text_width": "txt_in_dim", "layers": "num_layers"}
            names |= {name: name for name in ("heads", "head_dim", "expand_ratio")}
            assert all(getattr(config, ours) == case[theirs] for ours, theirs in names.items())
            assert config.mm_layers == case.get("mm_layers", case["num_layers"])
        else:
            assert list(config.block_channels) == case["block_out_channels"]
            assert config.layers_per_block == case["layers_per_block"]
            assert config.norm_groups == case["norm_num_groups"]
        entries = keys.entries_of(config)
        assert not keys.mismatches(entries, tensors)
        params = params_of(entries, tensors, tmp_path / path.parent.name)
        for entry in entries:
            array = params[entry.path] if entry.layer is None else params[entry.path][entry.layer]
            want = tensors[entry.official].load()
            assert entry.to_official(array).tobytes() == want.tobytes(), entry.official


def test_layouts_are_what_they_say(tmp_path):
    tensors = made(SMALL_DIT)
    params = params_of(keys.entries_of(SMALL_DIT), tensors, tmp_path / "dit")
    qkv = tensors["blocks.2.attn.proj_qkv.all.weight"].load()
    np.testing.assert_array_equal(params["shared_blocks/all/qkv/kernel"][0], qkv.T)
    gate = tensors["blocks.1.ada.txt.mlp_gate"].load()
    np.testing.assert_array_equal(params["mm_blocks/txt/mlp_gate"][1], gate)
    vae = VAEConfig(block_channels=(4, 4, 4, 8), layers_per_block=1, norm_groups=2)
    tensors = made(vae)
    params = params_of(keys.entries_of(vae), tensors, tmp_path / "vae")
    conv = tensors["decoder.up_blocks.0.resnets.1.conv1.weight"].load()
    ours = params["decoder/up_blocks/0/resnets/1/conv1/kernel"]
    assert ours[2, 0, 1, 3, 5] == conv[5, 3, 2, 0, 1]
    out = tensors["encoder.mid_block.attentions.0.to_out.0.weight"].load()
    mine = params["encoder/mid_block/attentions/0/to_out/0/kernel"]
    np.testing.assert_array_equal(mine, out.T)


def test_old_names_of_the_attention():
    vae = VAEConfig(block_channels=(4, 4, 4, 8), layers_per_block=1, norm_groups=2)
    tensors = made(vae)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_name(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        return name

    before = {old_name(name): tensor for name, tensor in tensors.items()}
    assert before.keys() != tensors.keys()
    assert keys.renamed(before) == tensors


def test_an_unshared_last_block_has_no_text_weights_that_do_not_matter(tmp_path):
    config = dataclasses.replace(SMALL_DIT, layers=2)
    entries = keys.entries_of(config)
    official = {entry.official for entry in entries}
    assert "blocks.1.ada.txt.attn_shift" not in official
    assert "blocks.1.mlp.txt.proj_in.weight" not in official
    assert {"blocks.0.ada.txt.attn_shift", "blocks.1.attn.proj_out.txt.bias"} < official
    tensors = made(config)
    assert recognise(architecture.shapes_of(tensors), "x") == config
    params = params_of(entries, tensors, tmp_path / "dit")
    assert not params["mm_blocks/txt/mlp/proj_in/kernel"][1].any()
    assert params["mm_blocks/txt/mlp/proj_in/kernel"][0].any()


def test_all_mismatches_at_once():
    tensors = made(SMALL_DIT)
    entries = keys.entries_of(SMALL_DIT)
    del tensors["vid_in.proj.bias"]
    tensors["blocks.0.extra"] = lazy.of_array(np.zeros(3))
    tensors["txt_in.bias"] = lazy.of_array(np.zeros(5, np.float32))
    wrong = keys.mismatches(entries, tensors)
    assert wrong == [
        "missing vid_in.proj.bias (12,)",
        "unexpected blocks.0.extra (3,)",
        "txt_in.bias has shape (5,), expected (12,)",
    ]


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="x: not a SeedVR transformer"):
        architecture.dit_config({"encoder.conv.weight": (3, 3)}, "x")
    with pytest.raises(UserError, match="x: not a SeedVR autoencoder"):
        architecture.vae_config(architecture.shapes_of(made(SMALL_DIT)), "x")
    shapes = architecture.shapes_of(made(SMALL_DIT))
    del shapes["vid_in.proj.weight"]
    with pytest.raises(UserError, match=r"x: has no vid_in\.proj\.weight"):
        architecture.dit_config(shapes, "x")


def test_layers_that_a_file_does_not_hold_are_not_made_up():
    shapes = architecture.shapes_of(made(SMALL_DIT))
    shapes["blocks.99999999999.attn.norm_q.vid.weight"] = (4,)
    with pytest.raises(UserError, match=r"x: has no tensors of blocks\.3, but of later ones"):
        architecture.dit_config(shapes, "x")
