"""The autoencoder's sizes, its slicing, its residual decoder, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import abstract, bind, count, flatten, to_dict
from skipsr_jax.models.vae import SEEDVR, TINY, VAE, Posterior, VAEConfig

SMALL = VAEConfig(block_channels=(4, 4, 8, 8), layers_per_block=1, norm_groups=2)
RESIDUAL = dataclasses.replace(SMALL, residual_decoder=True)


def _random(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _build(config):
    return lambda rngs: VAE(config, rngs=rngs)


@pytest.fixture(scope="module")
def small(fill):
    return fill(_build(SMALL))


@pytest.fixture(scope="module")
def residual(fill):
    return fill(_build(RESIDUAL))


def _encode(vae):
    return jax.jit(lambda params, x, cache: bind(vae, params).encode(x, cache))


def _decode(vae):
    return jax.jit(lambda params, z, cache, up: bind(vae, params).decode(z, cache, up))


def test_the_public_model_has_its_size():
    assert count(to_dict(abstract(_build(SEEDVR)))) == 250_648_227


def test_the_tiny_model_fits_its_budget():
    assert count(to_dict(abstract(_build(TINY)))) * 2 < 6.5e6  # bytes in bfloat16


def test_paths_are_those_of_the_public_keys():
    flat = to_dict(abstract(_build(SMALL)))
    assert flat["encoder"]["down_blocks"]["1"]["downsamplers"]["0"]["conv"]["kernel"].ndim == 5
    assert flat["decoder"]["mid_block"]["attentions"]["0"]["to_out"]["0"]["kernel"].shape == (8, 8)
    assert set(flat["encoder"]["down_blocks"]["3"]) == {"resnets"}
    assert "conv_shortcut" not in flat["encoder"]["down_blocks"]["1"]["resnets"]["0"]
    assert "conv_shortcut" in flat["encoder"]["down_blocks"]["2"]["resnets"]["0"]


@pytest.mark.parametrize(
    "slices",
    [(5, 8), pytest.param((1, 4, 4, 4), marks=pytest.mark.slow)],
    ids=lambda s: "+".join(map(str, s)),
)
def test_any_slicing_gives_the_whole(small, slices):
    vae, params = small
    encode, decode = _encode(vae), _decode(vae)
    x, z = _random(1, 13, 16, 24), _random(1, 4, 2, 3, 16)
    x = jnp.stack([x, x**2, -x], axis=-1)
    whole, _ = encode(params, x, None)
    frames, _ = decode(params, z, None, None)
    assert whole.mean.shape == (1, 4, 2, 3, 16)
    assert frames.shape == (1, 13, 16, 24, 3)

    means, decoded, cache, decode_cache, at, at_latent = [], [], None, None, 0, 0
    for length in slices:
        latents = -(-length // 4)
        posterior, cache = encode(params, x[:, at : at + length], cache)
        part = z[:, at_latent : at_latent + latents]
        y, decode_cache = decode(params, part, decode_cache, None)
        assert y.shape[1] == length
        means.append(posterior.mean)
        decoded.append(y)
        at, at_latent = at + length, at_latent + latents
    np.testing.assert_allclose(jnp.concatenate(means, 1), whole.mean, atol=2e-5)
    np.testing.assert_allclose(jnp.concatenate(decoded, 1), frames, atol=2e-5)


def test_an_earlier_output_never_sees_a_later_frame(small):
    vae, params = small
    encode, decode = _encode(vae), _decode(vae)
    x, z = _random(1, 9, 8, 8, 3), _random(1, 3, 1, 1, 16)
    changed, _ = encode(params, x.at[:, 5:].add(1.0), None)
    before, _ = encode(params, x, None)
    np.testing.assert_array_equal(changed.mean[:, :2], before.mean[:, :2])
    assert jnp.abs(changed.mean[:, 2] - before.mean[:, 2]).max() > 1e-3
    changed, _ = decode(params, z.at[:, 2].add(1.0), None, None)
    before, _ = decode(params, z, None, None)
    np.testing.assert_array_equal(changed[:, :5], before[:, :5])
    assert jnp.abs(changed[:, 5:] - before[:, 5:]).max() > 1e-3


@pytest.mark.slow
def test_residual_decoder_in_slices(residual):
    vae, params = residual
    decode = _decode(vae)
    z, upscaled = _random(1, 3, 1, 2, 16), _random(1, 9, 8, 16, 3, seed=2)
    whole, _ = decode(params, z, None, upscaled)
    first, cache = decode(params, z[:, :1], None, upscaled[:, :1])
    second, cache = decode(params, z[:, 1:2], cache, upscaled[:, 1:5])
    third, _ = decode(params, z[:, 2:], cache, upscaled[:, 5:])
    np.testing.assert_allclose(jnp.concatenate([first, second, third], 1), whole, atol=2e-5)


def test_upscaled_input_reaches_both_levels_and_the_sum(residual):
    vae, params = residual
    decode = _decode(vae)
    z, upscaled = _random(1, 2, 1, 1, 16), _random(1, 5, 8, 8, 3, seed=2)
    full, _ = decode(params, z, None, upscaled)
    for name in ("upscaled_half", "upscaled_full", "conv_out"):
        silenced = jax.tree.map(jnp.zeros_like, params["decoder"][name])
        other = params | {"decoder": params["decoder"] | {name: silenced}}
        changed, _ = decode(other, z, None, upscaled)
        assert jnp.abs(changed - full).max() > 1e-3, name
    np.testing.assert_array_equal(changed, upscaled)  # without conv_out nothing is added


def test_an_untrained_residual_decoder_adds_nothing():
    # Under jit the draws of all other parameters are dropped.
    conv_out = jax.jit(lambda: to_dict(_build(RESIDUAL)(nnx.Rngs(0)))["decoder"]["conv_out"])()
    assert not jnp.any(conv_out["kernel"]) and not jnp.any(conv_out["bias"])


def test_residual_option_off_has_no_extra_parameters():
    plain, more = (set(flatten(to_dict(abstract(_build(c))))) for c in (SMALL, RESIDUAL))
    extra = more - plain
    assert extra == {
        f"decoder/{name}/{kind}"
        for name in ("upscaled_half", "upscaled_full")
        for kind in ("kernel", "bias")
    }


@pytest.mark.slow
def test_remat_changes_memory_not_numbers(small, fill):
    vae, params = small
    again, _ = fill(_build(dataclasses.replace(SMALL, remat=True)))
    x = _random(1, 1, 8, 8, 3)

    def gradient(model):
        def loss(params):
            posterior, _ = bind(model, params).encode(x)
            return jnp.mean(posterior.sample(posterior.mean) ** 2)

        return jax.jit(jax.grad(loss))(params)

    plain, other = gradient(vae), gradient(again)
    for path, leaf in flatten(plain).items():
        np.testing.assert_allclose(flatten(other)[path], leaf, atol=1e-5, err_msg=path)
    assert jnp.abs(plain["encoder"]["conv_in"]["kernel"]).max() > 0


def test_profiles_read_like_the_model(small):
    vae, params = small
    x, z = jnp.zeros((1, 1, 8, 8, 3)), jnp.zeros((1, 1, 1, 1, 16))
    encode, decode = _encode(vae).lower(params, x, None), _decode(vae).lower(params, z, None, None)
    encoded, decoded = (program.as_text(debug_info=True) for program in (encode, decode))
    for scope in ("down_0/resnet_0/conv1", "down_1/downsample", "mid/attention", "conv_out"):
        assert f"encoder/{scope}/" in encoded, scope
    for scope in ("up_0/upsample", "up_3/resnet_1/norm2", "conv_in"):
        assert f"decoder/{scope}/" in decoded, scope


def test_sample_uses_half_the_log_variance():
    posterior = Posterior(jnp.full((1, 1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1, 1), 2 * np.log(5)))
    assert posterior.sample(jnp.full((1, 1, 1, 1, 1), 2.0)).item() == pytest.approx(13.0)


def test_refused_sizes_and_inputs(small, residual):
    vae, params = small
    encode, decode = _encode(vae), _decode(vae)
    with pytest.raises(ValueError, match=r"6 frames.*4 k \+ 1.*9"):
        encode(params, jnp.zeros((1, 6, 8, 8, 3)), None)
    _, cache = jax.eval_shape(encode, params, jnp.zeros((1, 1, 8, 8, 3)), None)
    with pytest.raises(ValueError, match=r"later slice.*5 frames.*up to 8"):
        jax.eval_shape(encode, params, jnp.zeros((1, 5, 8, 8, 3)), cache)
    with pytest.raises(ValueError, match=r"height 12 and width 8.*16 x 8"):
        encode(params, jnp.zeros((1, 1, 12, 8, 3)), None)
    z, upscaled = jnp.zeros((1, 2, 1, 1, 16)), jnp.zeros((1, 4, 8, 8, 3))
    with pytest.raises(ValueError, match="no residual decoder"):
        decode(params, z, None, upscaled)
    vae, params = residual
    with pytest.raises(ValueError, match=r"give upscaled with shape \(1, 5, 8, 8, 3\)"):
        _decode(vae)(params, z, None, None)
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8, 3\).*\(1, 5, 8, 8, 3\)"):
        _decode(vae)(params, z, None, upscaled)


def test_refused_configs():
    with pytest.raises(ValueError, match="3 entries"):
        VAEConfig(block_channels=(32, 32, 32))
    with pytest.raises(ValueError, match=r"\[48\].*norm_groups 32"):
        VAEConfig(block_channels=(32, 48, 64, 64))
