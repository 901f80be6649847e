"""The Pallas convolution: every variant lowers for a GPU, and on one gives XLA's numbers."""

import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks import convolution
from benchmarks.convolution import (
    CHECKS,
    TOLERANCE,
    VARIANTS,
    layer_rows,
    refusal,
    relative_error,
)
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.convolution.mosaic import convolve
from skipsr_jax.kernels.convolution.weights import in_order_of_use
from skipsr_jax.kernels.target import Target


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_lowers_for_an_abstract_h200(name):
    variant, (frames, height, width, in_channels, out_channels) = VARIANTS[name], CHECKS[0]
    x = jax.ShapeDtypeStruct((1, frames + 2, height, width, in_channels), variant.dtype)
    weights = jax.ShapeDtypeStruct((3, 3, 3, in_channels, out_channels), variant.dtype)
    weights = jax.eval_shape(functools.partial(in_order_of_use, depth=variant.depth), weights)
    of_channels = jax.ShapeDtypeStruct((out_channels,), jnp.float32)
    run = jax.jit(functools.partial(convolve, variant=variant))
    lowered = run.trace(x, weights, of_channels, of_channels).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("stablehlo.custom_call @mosaic_gpu") == 1
    assert lowered.out_info.shape == (1, 3, 20, 64, 128)


def test_rows_compare_with_xla_and_a_failure_is_said(capsys):
    rows = layer_rows((1, 4, 8, 8), ["no such variant"], repeats=1, verbose=False)
    of_bf16 = next(row for row in rows if row["kernel"] == "cudnn_bf16")
    operations = 2 * 4 * 8 * 27 * 8 * 8
    assert of_bf16["tflops_per_second"] * of_bf16["ms"] == pytest.approx(operations / 1e9)
    for row in rows:
        ratio = row["tflops_per_second"] / of_bf16["tflops_per_second"]
        assert row["times_bf16"] == pytest.approx(ratio)
    assert "no such variant failed: KeyError" in capsys.readouterr().out


def test_other_devices_and_unknown_variants_are_refused(monkeypatch):
    with pytest.raises(UserError, match="Hopper"):
        convolution.main(["convolution"])
    monkeypatch.setattr(convolution, "current_target", lambda: Target("gpu", (9, 0)))
    with pytest.raises(UserError, match="none of fp8_16x16"):
        convolution.main(["convolution", "--variants=other"])


@pytest.mark.gpu
@pytest.mark.skipif(refusal() is not None, reason="needs a GPU of the Hopper generation")
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_xla_s_numbers(name):
    assert max(relative_error(name, layer) for layer in CHECKS) < TOLERANCE
