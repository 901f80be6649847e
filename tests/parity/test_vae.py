"""The autoencoder against the reference numbers: whole clips, slices, and inner activations."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from skipsr_jax.models.params import abstract, bind, unflatten
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.blocks import run_in_order
from skipsr_jax.models.vae.slices import (
    decode_clip,
    decode_step,
    encode_clip,
    encode_step,
    frame_slices,
    latent_slices,
)
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.tokens.blocks import plan_blocks

LIMIT = 1e-4


@pytest.fixture(scope="module")
def folder(golden) -> pathlib.Path:
    folders = [
        path.parent
        for path in sorted(golden.glob("*/case.json"))
        if "block_out_channels" in json.loads(path.read_text()).get("constructor", {})
    ]
    if not folders:
        pytest.skip(f"no autoencoder in {golden}")
    return folders[0]


@pytest.fixture(scope="module")
def vae(folder) -> VAE:
    case = json.loads((folder / "case.json").read_text())
    made = case["constructor"]
    config = VAEConfig(
        block_channels=tuple(made["block_out_channels"]),
        layers_per_block=made["layers_per_block"],
        norm_groups=made["norm_num_groups"],
        latent_channels=made["latent_channels"],
        scaling_factor=case["scaling_factor"],
    )
    return abstract(lambda rngs: VAE(config, rngs=rngs))


@pytest.fixture(scope="module")
def params(folder):
    flat = {}
    for key, value in load_file(folder / "weights.safetensors").items():
        value = value.astype(np.float32)
        path, kind = key.replace(".", "/").rsplit("/", 1)
        if kind == "weight":
            kind = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
        flat[f"{path}/{kind}"] = jnp.asarray(value)
    return unflatten(flat)


def _cases(folder):
    """(name, arrays) of every case, the smallest pictures first and of these the longest clip."""
    found = [
        (path.stem, {key: np.asarray(value, np.float32) for key, value in np.load(path).items()})
        for path in sorted(folder.glob("*.npz"))
    ]
    assert found, f"no cases in {folder}"
    return sorted(found, key=lambda case: (_area(case[1]), -case[1]["z"].shape[2]))


def _area(case):
    return math.prod(case["z"].shape[3:])


def _ours(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def _close(ours, theirs, name):
    ours = np.moveaxis(np.asarray(ours, np.float32), -1, 1)
    assert ours.shape == theirs.shape, name
    error = np.abs(ours - theirs).max()
    assert error <= LIMIT, f"{name}: max abs diff {error:.2e}"


def _cut(x, lengths):
    return jnp.split(x, np.cumsum(lengths)[:-1], axis=1)


def _join(slices):
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *slices)


@pytest.mark.parametrize("larger", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_whole_clips(folder, vae, params, larger):
    encode, decode = encode_step(vae), decode_step(vae)
    cases = _cases(folder)
    smallest = _area(cases[0][1])
    cases = [(name, case) for name, case in cases if (_area(case) > smallest) == larger]
    if not cases:
        pytest.skip("all cases have pictures of one size")
    for name, case in cases:
        posterior, _ = encode(params, _ours(case["x"]), None)
        _close(posterior.mean, case["mean"], f"{name} mean")
        _close(posterior.logvar, case["logvar"], f"{name} logvar")
        _close(posterior.sample(_ours(case["eps"])), case["sample"], f"{name} sample")
        decoded, _ = decode(params, _ours(case["z"]), None, None)
        _close(decoded, case["decoded"], f"{name} decoded")


@pytest.mark.slow
def test_in_slices_and_tiles(folder, vae, params):
    """In the smallest number of spatial tiles above one that divides the rows of latents."""
    for name, case in _cases(folder):
        x, z = _ours(case["x"]), _ours(case["z"])
        rows = z.shape[2]
        tiles = next((n for n in range(2, rows + 1) if rows % n == 0), 1)
        encode, decode = encode_step(vae, tiles=tiles), decode_step(vae, tiles=tiles)
        slices = _cut(x, frame_slices(x.shape[1]))
        posterior = _join(encode_clip(encode, params, slices))
        _close(posterior.mean, case["mean"], f"{name} mean")
        _close(posterior.logvar, case["logvar"], f"{name} logvar")
        decoded = _join(decode_clip(decode, params, _cut(z, latent_slices(z.shape[1]))))
        _close(decoded, case["decoded"], f"{name} decoded")


@pytest.mark.slow
def test_sparse_with_every_block_active(folder, vae, params):
    """The smallest pictures that are whole patches, and of these the longest clip."""
    whole = [(n, c) for n, c in _cases(folder) if not any(side % 2 for side in c["z"].shape[3:])]
    if not whole:
        pytest.skip("no case has pictures of whole patches (multiples of 16 pixels)")
    name, case = whole[0]
    encode, decode = sparse_encode_step(vae), sparse_decode_step(vae)
    x, z = _ours(case["x"]), _ours(case["z"])
    active = np.ones((z.shape[1], z.shape[2] // 2, z.shape[3] // 2), bool)
    plan = plan_blocks(active, active[0].size)
    slices = _cut(x, frame_slices(x.shape[1]))
    posterior = _join(encode_sparse_clip(encode, params, slices, plan))
    _close(posterior.mean, case["mean"], f"{name} mean")
    _close(posterior.logvar, case["logvar"], f"{name} logvar")
    latents = _cut(z, latent_slices(z.shape[1]))
    decoded = _join(decode_sparse_clip(decode, params, latents, slices, plan))
    _close(decoded, case["decoded"], f"{name} decoded")


def _encoder_activations(encoder, x):
    outputs = {}
    x = outputs["enc_conv_in"] = encoder.conv_in(x)[0]
    for i, block in enumerate(encoder.down_blocks):
        x = outputs[f"enc_down{i}"] = run_in_order(block.sublayers(f"down_{i}"), x, None)[0]
    sublayers = encoder.mid_block.sublayers()
    y, _ = run_in_order(sublayers[:2], x, None)
    outputs["enc_mid_attn"] = y.reshape(-1, *y.shape[2:])
    outputs["enc_mid"] = run_in_order(sublayers, x, None)[0]
    return outputs


def _decoder_activations(decoder, z):
    outputs = {}
    x = outputs["dec_conv_in"] = decoder.conv_in(z)[0]
    x = outputs["dec_mid"] = run_in_order(decoder.mid_block.sublayers(), x, None)[0]
    for i, block in enumerate(decoder.up_blocks):
        x = outputs[f"dec_up{i}"] = run_in_order(block.sublayers(f"up_{i}"), x, None)[0]
    return outputs


def test_inner_activations(folder, vae, params):
    @jax.jit
    def activations(params, x, z):
        model = bind(vae, params)
        return _encoder_activations(model.encoder, x) | _decoder_activations(model.decoder, z)

    checked = 0
    for name, case in _cases(folder):
        inner = [key for key in case if key.startswith(("enc_", "dec_"))]
        if not inner:
            continue
        outputs = activations(params, _ours(case["x"]), _ours(case["z"]))
        for key in inner:
            _close(outputs[key], case[key], f"{name} {key}")
        checked += len(inner)
    if not checked:
        pytest.skip("the reference holds no inner activations")
