"""The convolution with e4m3 products: the reference, the kernel's lowering, and both on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.convolution import (
    Taps,
    convolve,
    mosaic,
    quantize_taps,
    refusal,
    taps_shape,
    xla,
)
from skipsr_jax.kernels.convolution.api import IMPLEMENTATIONS
from skipsr_jax.kernels.convolution.weights import as_kernel, in_order_of_use
from skipsr_jax.kernels.convolution.xla import ConvolutionProblem
from skipsr_jax.kernels.target import Target, current_target

FP8, BF16 = jnp.float8_e4m3fn, jnp.bfloat16
PROBLEM = ConvolutionProblem(128, 256, jnp.dtype(BF16))
HOPPER = Target("gpu", (9, 0))
CASES = {
    "frames": (1, 4, 24, 48, 128, 128, (1, 1)),
    "several clips, odd sizes": (2, 3, 21, 37, 128, 256, (1, 1)),
    "columns padded alone": (2, 1, 30, 24, 128, 128, (0, 1)),
    "many channels": (1, 1, 25, 40, 512, 512, (1, 1)),
    "blocks": (3, 4, 18, 18, 128, 128, (0, 0)),
    "one frame of blocks": (3, 1, 18, 18, 256, 128, (0, 0)),
    "small blocks": (5, 4, 10, 10, 256, 256, (0, 0)),
    "small blocks, frames that fill no tile": (3, 6, 10, 10, 128, 256, (0, 0)),
    "one frame of small blocks": (6, 1, 10, 10, 128, 128, (0, 0)),
    "one small block": (1, 1, 10, 10, 128, 128, (0, 0)),
}
"""(clips, frames, height, width of the input, channels in and out, padding)."""


def problem(clips, frames, height, width, features_in, features_out):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(clips, frames + 2, height, width, features_in)), FP8)
    kernel = rng.normal(size=(3, 3, 3, features_in, features_out)) * (27 * features_in) ** -0.5
    kernel *= rng.uniform(0.1, 3, features_out)
    return x, jnp.asarray(kernel, jnp.float32), jnp.asarray(rng.normal(size=features_out), BF16)


def by_shifts(x, kernel, bias, padding):
    """The convolution in numpy, as a sum over taps."""
    x = np.pad(np.asarray(x, np.float32), ((0, 0), (0, 0), *((n, n) for n in padding), (0, 0)))
    frames, height, width = (size - 2 for size in x.shape[1:4])
    result = np.asarray(bias, np.float32)
    for t, i, j in np.ndindex(3, 3, 3):
        part = x[:, t : t + frames, i : i + height, j : j + width]
        result = result + part @ np.asarray(kernel[t, i, j], np.float32)
    return result


def relative(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("channels", "padding"),
    [((256, 128), (0, 0)), ((256, 128), (1, 1)), ((256, 128), (0, 1)), ((48, 20), (1, 1))],
)
def test_the_reference_is_a_convolution_of_the_quantised_numbers(channels, padding):
    x, kernel, bias = problem(2, 2, 5, 6, *channels)
    taps = quantize_taps(kernel)
    assert taps.values.shape == taps_shape(*channels)
    dequantised = as_kernel(taps.values).astype(jnp.float32) * taps.scale
    found = convolve(x, taps, bias, padding=padding, dtype=jnp.float32)
    np.testing.assert_allclose(found, by_shifts(x, dequantised, bias, padding), atol=1e-4)
    # Rounding to 3 bits of mantissa errs by 2.6 % of a kernel's norm.
    of_float = relative(found, by_shifts(x, kernel, bias, padding))
    assert 0.005 < of_float < 0.03


def test_weights_are_in_the_order_of_use():
    kernel = jnp.arange(27 * 256 * 128, dtype=jnp.float32).reshape(3, 3, 3, 256, 128)
    taps = in_order_of_use(kernel, 128)
    assert taps.shape == taps_shape(256, 128) == (54, 128, 128)
    # time 1, width 2, the second block of channels, height 0
    place = ((1 * 3 + 2) * 2 + 1) * 3 + 0
    assert (taps[place] == kernel[1, 0, 2, 128:].T).all()
    assert (as_kernel(taps) == kernel).all()


def test_each_output_channel_has_a_scale():
    _, kernel, _ = problem(1, 1, 1, 1, 128, 128)
    taps = quantize_taps(kernel)
    largest = np.abs(np.asarray(taps.values, np.float32)).max(axis=(0, 2))
    assert taps.values.dtype == FP8 and (largest > 440).all()
    restored = as_kernel(taps.values).astype(jnp.float32) * taps.scale
    np.testing.assert_allclose(restored, kernel, rtol=1 / 16 + 1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (8, 9)), "8.9"),
        ({}, Target("gpu", (10, 0)), "10.0"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"dtype": jnp.dtype(jnp.float16)}, HOPPER, "float16"),
        ({"features_in": 192}, HOPPER, "192"),
        ({"features_out": 64}, HOPPER, "64"),
        ({"devices": 2}, HOPPER, "2 devices"),
    ],
)
def test_the_kernel_where_it_can_else_the_reference(change, target, reason):
    assert first_supported(IMPLEMENTATIONS, PROBLEM, HOPPER) == ("pallas_mosaic", {})
    name, refused = first_supported(
        IMPLEMENTATIONS, ConvolutionProblem(**(vars(PROBLEM) | change)), target
    )
    assert name == "xla" and reason in refused["pallas_mosaic"]


def test_a_refusal_says_why():
    assert "is cpu" in refusal(PROBLEM, Target("cpu")) and refusal(PROBLEM, HOPPER) is None


def shapes(clips, frames, height, width, features_in, features_out):
    x = jax.ShapeDtypeStruct((clips, frames + 2, height, width, features_in), FP8)
    of_channels = jax.ShapeDtypeStruct((features_out,), BF16)
    taps = jax.ShapeDtypeStruct(taps_shape(features_in, features_out), FP8)
    return x, Taps(taps, of_channels), of_channels


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize("variant", [None, mosaic.FRAMES], ids=["chosen", "frames"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_kernel_lowers_for_an_abstract_h200(case, variant):
    *sizes, padding = case

    def run(x, taps, bias):
        if variant is None:
            return mosaic.convolve_taps(x, taps, bias, padding, BF16)
        return mosaic.convolve(x, *taps, bias, variant, padding)

    lowered = jax.jit(run).trace(*shapes(*sizes)).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("stablehlo.custom_call @mosaic_gpu") == 1
    clips, frames, height, width, _, out = sizes
    height, width = height - 2 + 2 * padding[0], width - 2 + 2 * padding[1]
    assert lowered.out_info.shape == (clips, frames, height, width, out)
    assert lowered.out_info.dtype == BF16


@pytest.mark.usefixtures("abstract_h200")
def test_shapes_that_a_variant_does_not_take_are_refused():
    def refused(variant, *sizes):
        x, taps, bias = shapes(*sizes)
        with pytest.raises(ValueError, match=r"cannot convolve|several whole images"):
            jax.eval_shape(functools.partial(mosaic.convolve, variant=variant), x, *taps, bias)

    refused(mosaic.FRAMES, 1, 4, 24, 48, 96, 128)
    refused(mosaic.FRAMES, 1, 4, 24, 48, 128, 96)
    refused(mosaic.SMALL_BLOCKS, 1, 1, 10, 10, 128, 128)
    refused(mosaic.Variant(columns=12), 1, 4, 24, 48, 128, 128)


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize(
    ("sizes", "variant"),
    [
        ((1, 4, 720, 1280, 128), mosaic.FRAMES),
        ((1, 4, 360, 640, 256), mosaic.FRAMES),
        ((1, 1, 90, 160, 512), mosaic.BLOCKS),
        ((900, 4, 16, 16, 128), mosaic.BLOCKS),
        ((900, 4, 8, 8, 256), mosaic.SMALL_BLOCKS),
        ((3600, 1, 8, 8, 256), mosaic.SMALL_BLOCKS),
        ((1, 1, 8, 8, 128), mosaic.BLOCKS),
    ],
)
def test_the_variant_with_the_fewest_pixels_for_a_core(sizes, variant):
    assert mosaic.variant_for(*sizes) == variant


VARIANTS = {"frames": mosaic.FRAMES, "blocks": mosaic.BLOCKS, "small": mosaic.SMALL_BLOCKS}


@pytest.mark.gpu
@pytest.mark.skipif(
    refusal(PROBLEM, current_target()) is not None, reason="needs a GPU of the Hopper generation"
)
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_kernel_gives_the_reference_s_numbers(case, name):
    *sizes, padding = case
    if name == "small" and (max(sizes[2:4]) > 10 or sizes[0] * sizes[1] == 1):
        pytest.skip("for small blocks alone")
    x, kernel, bias = problem(*sizes)
    taps = quantize_taps(kernel)
    run = functools.partial(mosaic.convolve, variant=VARIANTS[name], padding=padding)
    found = jax.jit(run)(x, *taps, bias)
    wanted = jax.jit(functools.partial(xla.convolve, padding=padding, dtype=BF16))(x, taps, bias)
    found, wanted = (np.asarray(part, np.float32) for part in (found, wanted))
    assert found.shape == wanted.shape
    # Sums of e4m3 products on tensor cores keep fewer bits than float32; a wrong pixel errs by 1.
    np.testing.assert_allclose(found, wanted, atol=0.03 * np.abs(wanted).max())
    assert relative(found, wanted) < 0.02
