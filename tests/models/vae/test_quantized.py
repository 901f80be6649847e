"""The autoencoder with fp8 products in its wide convolutions: near float32, and the same numbers
however a clip is cut, in spatial tiles, and on blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.kernels.norm_silu_concat import ScaleShift
from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.models.layers.causal_conv import CausalConv3d, QuantizedCausalConv3d, causal_conv
from skipsr_jax.models.params import abstract, bind, flatten, to_dict
from skipsr_jax.models.quantized_params import (
    quantize_params,
    quantized_convolutions,
    unquantized_shapes,
)
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.blocks import Resnet
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.tokens.blocks import plan_blocks

FP8, E4M3 = FORMATS["fp8"], jnp.dtype(jnp.float8_e4m3fn)
CONFIG = VAEConfig((128, 128, 8, 8), layers_per_block=1, norm_groups=4)
FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}


def random(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def relative(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def quantized(module, params):
    return quantize_params(jax.tree.map(jnp.copy, params), to_dict(module), FP8)


@pytest.fixture(scope="module")
def models(fill):
    """The autoencoder in float32, and with fp8 products."""
    module, params = fill(lambda rngs: VAE(CONFIG, rngs=rngs))
    fp8 = abstract(lambda rngs: VAE(CONFIG, rngs=rngs, format=FP8))
    return (module, params), (fp8, quantized(fp8, params))


def coded(model, frames, latent, cuts=None, tiles=1):
    """Means and frames of a clip; ``cuts``: one latent frame at a time."""
    module, params = model

    @jax.jit
    def run(params, frames, latent, caches):
        bound = bind(module, params)
        posterior, encoded = bound.encode(frames, caches[0], tiles)
        decoded, cache = bound.decode(latent, caches[1], tiles=tiles)
        return posterior.mean, decoded, (encoded, cache)

    parts, caches = [], (None, None)
    slices = [(slice(None), slice(None))]
    if cuts:
        count = latent.shape[1]
        slices = [(slice(0, 1), slice(0, 1))]
        slices += [(slice(4 * i - 3, 4 * i + 1), slice(i, i + 1)) for i in range(1, count)]
    for of_frames, of_latent in slices:
        *results, caches = run(params, frames[:, of_frames], latent[:, of_latent], caches)
        parts.append(results)
    return [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)], caches


@pytest.fixture(scope="module")
def clip():
    return random(1, 5, 32, 48, 3, seed=2), random(1, 2, 4, 6, 16, seed=3)


@pytest.fixture(scope="module")
def whole(models, clip):
    return coded(models[1], *clip)


def test_wide_convolutions_alone_are_quantised(models):
    (module, params), (fp8, made) = models
    layers = quantized_convolutions(made)
    assert "decoder/up_blocks/3/resnets/1/conv2" in layers
    assert "encoder/down_blocks/0/resnets/0/conv1" in layers
    flat = flatten(made)
    for layer in layers:
        before, taps = flatten(params)[f"{layer}/kernel"], flat[f"{layer}/quantized_taps"]
        assert before.shape == (3, 3, 3, 128, 128) and taps.dtype == E4M3
    left = [path for path, leaf in flat.items() if path.endswith("/kernel")]
    assert not [path for path in left if "resnets" in path and flat[path].shape[3:] == (128, 128)]
    shapes = jax.tree.map(lambda leaf: leaf.shape, unquantized_shapes(to_dict(fp8)))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, to_dict(module))


def test_products_in_fp8_are_near_float32(models, clip, whole):
    exact, _ = coded(models[0], *clip)
    for found, wanted in zip(whole[0], exact, strict=True):
        assert 1e-4 < relative(found, wanted) < 0.1


def test_caches_of_quantised_convolutions_are_e4m3(whole):
    kinds = {leaf.dtype for leaf in jax.tree.leaves(whole[1])}
    assert kinds >= {E4M3, jnp.dtype(jnp.float32)}


def test_slices_give_the_whole(models, clip, whole):
    parts, caches = coded(models[1], *clip, cuts=True)
    for found, wanted in zip(parts, whole[0], strict=True):
        # Sums in another order move few numbers to the next one of e4m3.
        assert relative(found, wanted) < 5e-3
    for found, wanted in zip(*map(jax.tree.leaves, (caches, whole[1])), strict=True):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape


def test_spatial_tiles_give_the_whole(models, clip, whole):
    for cuts in (False, True):
        tiles, _ = coded(models[1], *clip, cuts=cuts, tiles=2)
        for found, wanted in zip(tiles, whole[0], strict=True):
            assert relative(found, wanted) < 5e-3


def test_all_blocks_give_the_dense_numbers(models, clip, whole):
    module, params = models[1]
    frames, latent = clip
    slices, plan = [frames[:, :1], frames[:, 1:]], plan_blocks(np.ones((2, 2, 3), bool), 6)
    found = encode_sparse_clip(sparse_encode_step(module), params, slices, plan)
    assert relative(jnp.concatenate([part.mean for part in found], axis=1), whole[0][0]) < 5e-3
    latents = jnp.split(latent, 2, axis=1)
    found = decode_sparse_clip(sparse_decode_step(module), params, latents, slices, plan)
    assert relative(jnp.concatenate(list(found), axis=1), whole[0][1]) < 5e-3


def test_a_convolution_rounds_its_input_and_its_kernel_and_no_more():
    exact = CausalConv3d(128, 128, rngs=nnx.Rngs(0))
    fp8 = causal_conv(128, 128, rngs=nnx.Rngs(0), format=FP8, **FLOAT32)
    assert isinstance(fp8, QuantizedCausalConv3d)
    params = to_dict(exact) | {"bias": random(128, seed=5)}  # its kernel is deleted when quantised
    exact = bind(exact, jax.tree.map(jnp.copy, params))
    made = quantize_params({"conv": params}, {"conv": to_dict(fp8)}, FP8)["conv"]
    fp8 = bind(fp8, made)
    x = random(1, 4, 6, 5, 128)
    numbers = (random(1, 4, 128, seed=i) for i in range(3))
    scale_shift = ScaleShift(*numbers)
    found, cache = fp8(x, None, scale_shift)
    wanted, of_float = exact(x, None, scale_shift)
    # The root mean square of the rounding errors of both: 2.6 % each.
    assert 0.02 < relative(found, wanted) < 0.05
    assert cache.dtype == E4M3 and cache.shape == of_float.shape
    assert relative(cache.astype(jnp.float32), of_float) < 0.04


@pytest.mark.parametrize(("channels", "format"), [((128, 64), FP8), ((128, 128), None)])
def test_other_convolutions_are_as_they_were(channels, format):
    made = causal_conv(*channels, rngs=nnx.Rngs(0), format=format, **FLOAT32)
    assert isinstance(made, CausalConv3d)


def test_one_frame_counts_three_times():
    layer = Resnet(128, 128, 4, rngs=nnx.Rngs(0), format=FP8, **FLOAT32)
    params = jax.tree.map(lambda leaf: random(*leaf.shape).astype(leaf.dtype), to_dict(layer))
    layer, x = bind(layer, params), random(1, 1, 4, 4, 128)
    one, cache = layer(x)
    three, of_three = layer(jnp.repeat(x, 3, axis=1))
    assert relative(one[:, 0], three[:, 2]) < 1e-5
    for found, wanted in zip(*map(jax.tree.leaves, (cache, of_three)), strict=True):
        np.testing.assert_array_equal(*(part.astype(jnp.float32) for part in (found, wanted)))


def test_the_estimate_of_memory_knows_the_smaller_cache_and_parameters():
    def estimate(format):
        config = VAEConfig((128, 128, 128, 128), layers_per_block=1, norm_groups=4)
        kinds = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "format": format}
        return estimate_memory(abstract(lambda rngs: VAE(config, rngs=rngs, **kinds)), 96, 96, 1)

    plain, fp8 = estimate(None), estimate(FP8)
    assert fp8.params < 0.8 * plain.params
    assert fp8.by_tiles[1] - fp8.params < plain.by_tiles[1] - plain.params
