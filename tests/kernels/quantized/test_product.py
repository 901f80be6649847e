"""Quantised kernels and their products against float64, and which device has which format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.quantized import (
    FORMATS,
    dequantize_kernel,
    multiply,
    quantize_kernel,
    quantize_rows,
    refusal,
)
from skipsr_jax.kernels.target import Target

# Relative errors, in the norm, of a product of normal numbers of 256 terms: two operands with
# errors of 2.6 % (e4m3) or 0.7 % (int8 at 3 sigma) each.
LEAST, MOST = {"fp8": 0.03, "int8": 0.007}, {"fp8": 0.042, "int8": 0.015}
formats = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)


def operands():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 64, 256)), rng.normal(size=(256, 96))
    kernel *= np.exp(rng.normal(size=96))  # channels of very different sizes
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


def relative(got, want):
    return np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)


@formats
def test_product_against_float64(format):
    x, kernel = operands()
    want = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    quantized = quantize_kernel(kernel, format)
    assert quantized.values.shape == (96, 256) and quantized.values.dtype == format.dtype
    got = multiply(quantize_rows(x, format), quantized, jnp.float32)
    assert got.values.dtype == (jnp.int32 if format.is_integer else jnp.float32)
    assert LEAST[format.name] < relative(got.scaled(), want) < MOST[format.name]
    by_channel = [relative(got.scaled()[..., i], want[..., i]) for i in range(96)]
    assert max(by_channel) < 2 * MOST[format.name]


@formats
def test_a_stack_of_kernels_is_quantised_as_each_of_them(format):
    kernel = operands()[1]
    stack = quantize_kernel(jnp.stack([kernel, 2 * kernel]), format)
    alone = quantize_kernel(kernel, format)
    for i in range(2):
        assert (stack.values[i] == alone.values).all()
        np.testing.assert_array_equal(stack.scale[i], alone.scale * 2**i)


@formats
def test_scales_survive_bfloat16_and_channels_of_zeros(format):
    kernel = operands()[1].at[:, 3].set(0)
    quantized = quantize_kernel(kernel, format)
    assert (quantized.scale.astype(jnp.bfloat16).astype(jnp.float32) == quantized.scale).all()
    whole = dequantize_kernel(quantized, jnp.float32)
    assert (whole[:, 3] == 0).all() and np.isfinite(whole).all()
    assert relative(whole, np.asarray(kernel)) < MOST[format.name]


def test_operands_of_the_product_are_contracted_along_their_last_axes():
    x, kernel = operands()
    run = jax.jit(lambda x, kernel: multiply(x, kernel, jnp.bfloat16))
    format = FORMATS["fp8"]
    lowered = run.trace(quantize_rows(x, format), quantize_kernel(kernel, format)).lower(
        lowering_platforms=("cuda",)
    )
    text = lowered.as_text()
    assert "contracting_dims = [2] x [1]" in text
    assert "(tensor<1x64x256xf8E4M3FN>, tensor<96x256xf8E4M3FN>) -> tensor<1x64x96xbf16>" in text


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("fp8", Target("gpu", (9, 0)), None),
        ("fp8", Target("gpu", (8, 9)), None),
        ("fp8", Target("gpu", (8, 0)), "8.9 or more, and this one has 8.0: take int8 or bf16"),
        ("int8", Target("gpu", (8, 0)), None),
        ("int8", Target("gpu", (7, 0)), "take bf16"),
        ("int8", Target("tpu"), None),
        ("fp8", Target("tpu"), "take int8 or bf16"),
        ("fp8", Target("cpu"), "a cpu has no matrix unit for fp8: take bf16"),
        ("int8", Target("cpu"), "take bf16"),
    ],
)
def test_refusal(name, target, reason):
    refused = refusal(name, target)
    assert refused is None if reason is None else reason in refused
