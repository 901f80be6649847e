"""Both implementations of quantised rows against numpy; and the choice between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.quantized import (
    FORMATS,
    Product,
    Residual,
    quantize_gated,
    quantize_gelu,
    quantize_normalized,
    quantize_rows,
    rows,
    triton,
    xla,
)
from skipsr_jax.kernels.quantized.problem import RowsProblem
from skipsr_jax.kernels.target import Target

RUNS = {
    "xla": xla.quantize,
    "pallas_triton": functools.partial(triton.quantize, rows=2, interpret=True),
}
WIDTH = 224  # three blocks of columns; five rows fill no programs of two
EPS = 1e-5
# Of one number: half a step of e4m3 relative to it; half a step of int8 relative to the largest.
ERROR = {"fp8": 1 / 16, "int8": 0.5 / 127}


@pytest.fixture(params=RUNS)
def implementation(request, monkeypatch):
    monkeypatch.setattr(rows, "first_supported", lambda implementations, *facts: ("chosen", {}))
    run = rows.Implementation(rows.everywhere, RUNS[request.param])
    monkeypatch.setattr(rows, "IMPLEMENTATIONS", {"chosen": run})


def draw(seed, *shape, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def product(seed, b=2, n=5):
    """A product with uneven scales, and its value in numpy."""
    made = Product(
        draw(seed, b, n, WIDTH),
        jnp.exp(draw(seed + 1, b, n, 1, dtype=jnp.float32)),
        jnp.exp(draw(seed + 2, WIDTH, dtype=jnp.float32)),
    )
    values = np.asarray(made.values, np.float64)
    return made, values * np.asarray(made.row_scale) * np.asarray(made.column_scale)


def check(got, want, format):
    """The values stand for ``want`` within the format's rounding, and use its whole range."""
    values = np.asarray(got.values.astype(jnp.float32), np.float64)
    scale = np.asarray(got.scale, np.float64)
    largest = np.abs(want).max(axis=-1, keepdims=True)
    if format.is_integer:
        bound = ERROR[format.name] * largest
    else:  # below 2^-6 steps are even
        bound = ERROR[format.name] * np.maximum(np.abs(want), 2.0**-6 * scale)
    assert got.values.dtype == format.dtype and got.scale.shape == (*want.shape[:2], 1)
    assert (np.abs(values * scale - want) <= 1.01 * bound + 1e-6 * largest).all()
    np.testing.assert_allclose(np.abs(values).max(axis=-1), format.largest)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
class TestRows:
    def test_normalized_by_sample(self, format):
        x = draw(0, 2, 5, WIDTH)
        scale, shift = (draw(seed, 2, 1, WIDTH, dtype=jnp.float32) for seed in (1, 2))
        self.check_normalized(x, scale, shift, format)

    def test_normalized_by_token(self, format):
        x = draw(0, 2, 5, WIDTH)
        scale, shift = (draw(seed, 2, 5, WIDTH, dtype=jnp.float32) for seed in (1, 2))
        self.check_normalized(x, scale, shift, format)

    def check_normalized(self, x, scale, shift, format):
        exact = np.asarray(x, np.float64)
        factor = 1 / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + EPS)
        want = exact * factor * np.asarray(scale) + np.asarray(shift)
        check(quantize_normalized(x, scale, shift, EPS, format), want, format)

    @pytest.mark.parametrize("has_bias", [True, False])
    def test_normalized_sum(self, format, has_bias):
        x, (made, value) = draw(0, 2, 5, WIDTH), product(4)
        scale, shift, gate = (draw(seed, 2, 1, WIDTH, dtype=jnp.float32) for seed in (1, 2, 3))
        bias = draw(9, WIDTH, dtype=jnp.float32) if has_bias else None
        residual = Residual(x, made, bias, gate)
        value = value + (np.asarray(bias) if has_bias else 0)
        total = np.asarray(x, np.float64) + value * np.asarray(gate)
        np.testing.assert_allclose(
            np.asarray(residual.sum(), np.float64), total, rtol=2**-8, atol=1e-6
        )
        exact = np.asarray(residual.sum(), np.float64)
        factor = 1 / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + EPS)
        want = exact * factor * np.asarray(scale) + np.asarray(shift)
        check(quantize_normalized(residual, scale, shift, EPS, format), want, format)

    def test_gathered_rows(self, format):
        x, index = draw(3, 2, 5, WIDTH), jnp.array([[4, 0, 0], [1, 2, 3]])
        want = np.take_along_axis(np.asarray(x, np.float64), np.asarray(index)[..., None], axis=1)
        check(quantize_rows(x, format, index), want, format)

    def test_rows_past_the_end_are_zeros(self, format):
        got = quantize_rows(draw(3, 1, 5, WIDTH), format, jnp.array([[5, 9]]))
        assert (np.asarray(got.values.astype(jnp.float32)) == 0).all()
        assert (np.asarray(got.scale) > 0).all()

    def test_gated(self, format):
        (gate, gate_value), (x, value) = product(4), product(7)
        want = gate_value / (1 + np.exp(-gate_value)) * value
        check(quantize_gated(gate, x, format), want, format)

    def test_gelu(self, format):
        x, value = product(4)
        bias = draw(1, WIDTH, dtype=jnp.float32)
        value = value + np.asarray(bias)
        inner = np.sqrt(2 / np.pi) * (value + 0.044715 * value**3)
        check(quantize_gelu(x, bias, format), 0.5 * value * (1 + np.tanh(inner)), format)


@pytest.mark.parametrize(
    ("name", "target", "sharded", "reason"),
    [
        ("fp8", Target("gpu", (9, 0)), False, None),
        ("fp8", Target("gpu", (8, 0)), False, "compute capability 8.9"),
        ("int8", Target("gpu", (8, 0)), False, None),
        ("int8", Target("tpu"), False, "NVIDIA GPU"),
        ("fp8", Target("gpu", (9, 0)), True, "several devices"),
    ],
)
def test_choice(name, target, sharded, reason):
    problem = RowsProblem(2560, FORMATS[name], sharded)
    chosen, refused = first_supported(rows.IMPLEMENTATIONS, problem, target)
    assert chosen == ("pallas_triton" if reason is None else "xla")
    assert reason is None or reason in refused["pallas_triton"]


def test_rows_that_blocks_cannot_hold_are_left_to_xla():
    for width in (2572, 2 * triton.WIDEST):
        problem = RowsProblem(width, FORMATS["fp8"])
        assert "rows of a multiple of 32" in triton.supported(problem, Target("gpu", (9, 0)))


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("width", [2560, 6912, 12288])
def test_the_kernel_lowers_for_an_abstract_h200(monkeypatch, format, width):
    monkeypatch.setattr(rows, "current_target", lambda: Target("gpu", (9, 0)))

    def run(x, row, column):
        made = Product(x, row, column)
        return quantize_gated(made, made, format)

    shapes = ((1, 1000, width), (1, 1000, 1), (width,))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(run).trace(*inputs).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("stablehlo.custom_call") == 1
