"""The light coder: its conventions, its slices, its halos, and its spatial shards."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.config import from_json, to_json
from skipsr_jax.models.light_coder import SEEDVR, TINY, LightCoder, LightCoderConfig
from skipsr_jax.models.params import abstract, bind, count, to_dict
from skipsr_jax.parallel.mesh import make_mesh, replicated

SMALL = LightCoderConfig(
    encoder_channels=(4, 6, 8),
    encoder_blocks=(1, 2, 1),
    decoder_channels=(4, 6, 8),
    decoder_blocks=(1, 2, 1),
)


def _build(config=SMALL):
    return lambda rngs: LightCoder(config, rngs=rngs)


def _random(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def small(fill):
    return fill(_build())


@pytest.fixture(scope="module")
def encode(small):
    return jax.jit(lambda params, x, cache: bind(small[0], params).encode(x, cache))


@pytest.fixture(scope="module")
def decode(small):
    return jax.jit(lambda params, z, cache, up: bind(small[0], params).decode(z, cache, up))


def _sliced(encode, decode, params, x, z, latents):
    """Means and frames of slices of so many latent frames."""
    means, frames, caches, at, at_latent = [], [], (None, None), 0, 0
    for t in latents:
        f = 4 * t - (3 if at == 0 else 0)
        posterior, encoder = encode(params, x[:, at : at + f], caches[0])
        part = z[:, at_latent : at_latent + t]
        y, decoder = decode(params, part, caches[1], x[:, at : at + f])
        means.append(posterior.mean)
        frames.append(y)
        caches, at, at_latent = (encoder, decoder), at + f, at_latent + t
    return np.concatenate(means, 1), np.concatenate(frames, 1)


def test_any_slicing_gives_the_whole_bit_for_bit(small, encode, decode):
    params = small[1]
    x, z = _random(2, 13, 8, 16, 3), _random(2, 4, 1, 2, 16, seed=2)
    means, frames = _sliced(encode, decode, params, x, z, [4])
    assert means.shape == (2, 4, 1, 2, 16) and frames.shape == x.shape
    sliced = _sliced(encode, decode, params, x, z, [1, 1, 2])
    np.testing.assert_array_equal(sliced[0], means)
    np.testing.assert_array_equal(sliced[1], frames)


def test_samples_are_the_mean(small, encode):
    posterior, _ = encode(small[1], _random(1, 1, 8, 8, 3), None)
    sample = posterior.sample(_random(*posterior.mean.shape))
    np.testing.assert_allclose(sample, posterior.mean, atol=2e-6)


def test_nothing_depends_on_later_frames_and_something_on_earlier_ones(small, encode, decode):
    params = small[1]
    x, z = _random(1, 9, 8, 8, 3), _random(1, 3, 1, 1, 16)
    mean = encode(params, x, None)[0].mean
    changed = encode(params, x.at[:, 1:5].add(1.0), None)[0].mean
    np.testing.assert_array_equal(changed[:, 0], mean[:, 0])
    assert jnp.abs(changed[:, 2] - mean[:, 2]).max() > 1e-3
    frames = decode(params, z, None, x)[0]
    changed = decode(params, z.at[:, 1].add(1.0), None, x)[0]
    np.testing.assert_array_equal(changed[:, :1], frames[:, :1])
    assert jnp.abs(changed[:, 5:] - frames[:, 5:]).max() > 1e-3


def test_an_untrained_decoder_returns_the_upscaled_input(small, decode):
    first = jax.jit(lambda: to_dict(_build()(nnx.Rngs(0)))["decoder"]["conv_out"])()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(first))
    params = small[1] | {"decoder": small[1]["decoder"] | {"conv_out": first}}
    upscaled = _random(1, 9, 8, 8, 3)
    frames, _ = decode(params, _random(1, 3, 1, 1, 16), None, upscaled)
    np.testing.assert_array_equal(frames, upscaled)


def test_the_finest_levels_take_off_their_halos(small):
    module, params = small
    config = module.config
    core, halo = 8, config.encoder_halo
    x = _random(1, 5, core + 2 * halo, core + 2 * halo, 3)

    def fine(params, x):
        return bind(module, params).encoder.fine(x, start=True)

    assert jax.eval_shape(fine, params, x).shape[2:4] == (1, 1)
    quarter, half = config.decoder_quarter_halo, config.decoder_half_halo
    features = _random(1, 3, 2 + 2 * quarter, 2 + 2 * quarter, 6)
    pixels = _random(1, 4, 4 + 2 * half, 4 + 2 * half, 12)

    def fine(params, x, pixels):
        decoder = bind(module, params).decoder
        return decoder.half_level(decoder.quarter_level(x), pixels, start=False)

    assert jax.eval_shape(fine, params, features, pixels).shape[1:] == (4, 4, 4, 12)


@pytest.mark.slow
def test_it_learns_from_every_parameter(small):
    module, params = small
    x, z = _random(1, 5, 16, 16, 3), _random(1, 2, 2, 2, 16)

    def loss(params):
        coder = bind(module, params)
        return (coder.encode(x)[0].mean ** 2).sum() + (coder.decode(z, None, x)[0] ** 2).sum()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("size", [(128, 16), pytest.param((24, 128), marks=pytest.mark.slow)])
def test_shards_over_devices_give_the_whole(small, encode, decode, size):
    """Rows or columns over eight devices, in shards that are thinner than the halo."""
    module, params = small
    x = _random(1, 5, *size, 3)
    z = _random(1, 2, size[0] // 8, size[1] // 8, 16)
    later = _random(1, 4, *size, 3, seed=5)

    def run(params, x, z, later):
        coder = bind(module, params)
        first, encoder = coder.encode(x)
        second, _ = coder.encode(later, encoder)
        y, decoder = coder.decode(z, None, x)
        return first.mean, second.mean, y, coder.decode(z[:, :1], decoder, later)[0]

    whole = jax.jit(run)(params, x, z, later)
    mesh = make_mesh(1, 2, 4)
    with jax.set_mesh(mesh):
        shards = jax.jit(run)(*jax.device_put((params, x, z, later), replicated(mesh)))
    wanted = {(128, 16): (16, 16), (24, 128): (24, 16)}[size]
    assert shards[2].sharding.shard_shape(shards[2].shape)[2:4] == wanted
    for got, want in zip(shards, whole, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 4, 8, 8, 3), "4 k \\+ 1"), ((1, 5, 12, 8, 3), "16 x 8")]
)
def test_wrong_frames_are_refused(small, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(small[0].encode, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_decoding_without_the_upscaled_input_is_refused(small):
    with pytest.raises(ValueError, match=r"got none: give upscaled with shape \(1, 5, 8, 8, 3\)"):
        jax.eval_shape(small[0].decode, jax.ShapeDtypeStruct((1, 2, 1, 1, 16), jnp.float32))


def test_sizes():
    seedvr, tiny = (count(to_dict(abstract(_build(config)))) for config in (SEEDVR, TINY))
    assert tiny * 2 < 2.6e6 < seedvr  # the tiny one in bfloat16, in bytes
    assert from_json(LightCoderConfig, json.loads(json.dumps(to_json(TINY))), "test") == TINY
    with pytest.raises(ValueError, match="decoder_blocks"):
        dataclasses.replace(TINY, decoder_blocks=(1, 0, 1))
