"""The autoencoder against the reference numbers: whole clips, slices, and inner activations."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from skipsr_jax.models.vae import TIME_FACTOR, VAE, VAEConfig
from skipsr_jax.nn.params import bind, unflatten
from skipsr_jax.nn.vae_blocks import run_in_order

LIMIT = 1e-4


def _pool(shared: pathlib.Path) -> pathlib.Path:
    folders = [
        path.parent
        for path in sorted((shared / "golden").glob("*/case.json"))
        if "block_out_channels" in json.loads(path.read_text()).get("constructor", {})
    ]
    if not folders:
        pytest.skip(f"no autoencoder in {shared / 'golden'}")
    return folders[0]


@pytest.fixture(scope="module")
def folder(shared) -> pathlib.Path:
    return _pool(shared)


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
    flat = {}
    for key, value in load_file(folder / "weights.safetensors").items():
        path, kind = key.replace(".", "/").rsplit("/", 1)
        if kind == "weight":
            kind = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
        flat[f"{path}/{kind}"] = jnp.asarray(value)
    return bind(VAE(config, rngs=nnx.Rngs(0)), unflatten(flat))


def _cases(folder):
    found = sorted(folder.glob("*.npz"))
    assert found, f"no cases in {folder}"
    for path in found:
        arrays = {key: np.asarray(value, np.float32) for key, value in np.load(path).items()}
        yield path.stem, arrays


def _ours(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def _close(ours, theirs, name):
    ours = np.moveaxis(np.asarray(ours, np.float32), -1, 1)
    assert ours.shape == theirs.shape, name
    error = np.abs(ours - theirs).max()
    assert error <= LIMIT, f"{name}: max abs diff {error:.2e}"


def _run_sliced(step, x, first, later):
    parts, carry, start = [], None, 0
    while start < x.shape[1]:
        stop = start + (first if start == 0 else later)
        part, carry = step(x[:, start:stop], carry)
        parts.append(part)
        start = stop
    return jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)


def test_whole_clips(folder, vae):
    for name, case in _cases(folder):
        posterior, _ = jax.jit(vae.encode)(_ours(case["x"]))
        _close(posterior.mean, case["mean"], f"{name} mean")
        _close(posterior.logvar, case["logvar"], f"{name} logvar")
        _close(posterior.sample(_ours(case["eps"])), case["sample"], f"{name} sample")
        decoded, _ = jax.jit(vae.decode)(_ours(case["z"]))
        _close(decoded, case["decoded"], f"{name} decoded")


@pytest.mark.parametrize("first_frames", [1, 1 + TIME_FACTOR])
def test_in_slices(folder, vae, first_frames):
    encode, decode = jax.jit(vae.encode), jax.jit(vae.decode)
    for name, case in _cases(folder):
        if case["x"].shape[2] < first_frames:
            continue
        posterior = _run_sliced(encode, _ours(case["x"]), first_frames, TIME_FACTOR)
        _close(posterior.mean, case["mean"], f"{name} mean")
        _close(posterior.logvar, case["logvar"], f"{name} logvar")
        first_latents = (first_frames - 1) // TIME_FACTOR + 1
        decoded = _run_sliced(decode, _ours(case["z"]), first_latents, 1)
        _close(decoded, case["decoded"], f"{name} decoded")


def _encoder_activations(encoder, x):
    seen = {}
    x = seen["enc_conv_in"] = encoder.conv_in(x)[0]
    for i, block in enumerate(encoder.down_blocks):
        x = seen[f"enc_down{i}"] = run_in_order(block.parts(), x, None)[0]
    resnet, attention, _ = encoder.mid_block.parts()
    y = attention(resnet(x)[0])[0]
    seen["enc_mid_attn"] = y.reshape(-1, *y.shape[2:])
    seen["enc_mid"] = run_in_order(encoder.mid_block.parts(), x, None)[0]
    return seen


def _decoder_activations(decoder, z):
    seen = {}
    x = seen["dec_conv_in"] = decoder.conv_in(z)[0]
    x = seen["dec_mid"] = run_in_order(decoder.mid_block.parts(), x, None)[0]
    for i, block in enumerate(decoder.up_blocks):
        x = seen[f"dec_up{i}"] = run_in_order(block.parts(), x, None)[0]
    return seen


def test_inner_activations(folder, vae):
    checked = 0
    for name, case in _cases(folder):
        inner = [key for key in case if key.startswith(("enc_", "dec_"))]
        if not inner:
            continue
        seen = jax.jit(lambda x: _encoder_activations(vae.encoder, x))(_ours(case["x"]))
        seen |= jax.jit(lambda z: _decoder_activations(vae.decoder, z))(_ours(case["z"]))
        for key in inner:
            _close(seen[key], case[key], f"{name} {key}")
        checked += len(inner)
    if not checked:
        pytest.skip("the reference holds no inner activations")
