"""Rows that are quantised by the pass that computes them: the public functions.

Each row has the scale (largest magnitude) / (largest number of the format). A computation of rows
is one function on a block of whole rows in float32, which both implementations call.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.quantized import triton, xla
from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Operands, RowsProblem
from skipsr_jax.kernels.quantized.product import Product, Quantized
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import Float, Int

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": Implementation(triton.supported, triton.quantize),
    "xla": Implementation(everywhere, xla.quantize),
}


class _Rows(NamedTuple):
    """rows as they are."""

    def __call__(self, rows, scalars, vectors, width):
        (x,) = rows
        return x


class _Normalized(NamedTuple):
    """x / sqrt(mean(x^2) + eps) * scale + shift."""

    eps: float

    def __call__(self, rows, scalars, vectors, width):
        x, *modulation = rows
        scale, shift = modulation or vectors
        mean_square = jnp.sum(x * x, axis=-1, keepdims=True) / width
        return x * jax.lax.rsqrt(mean_square + self.eps) * scale + shift


class _Gated(NamedTuple):
    """silu(gate) * x, each a product and its scales."""

    def __call__(self, rows, scalars, vectors, width):
        gate, x = (r * s * v for r, s, v in zip(rows, scalars, vectors, strict=True))
        return gate / (1 + jnp.exp(-gate)) * x


class _Gelu(NamedTuple):
    """gelu_tanh(product + bias)."""

    def __call__(self, rows, scalars, vectors, width):
        column_scale, bias = vectors
        return jax.nn.gelu(rows[0] * scalars[0] * column_scale + bias, approximate=True)


def quantize_rows(
    x: Float[Array, "b n i"], format: Format, index: Int[Array, "b n_out"] | None = None
) -> Quantized:
    """Rows of x; with ``index`` those that it names, zeros where it points past the end."""
    return _quantize(_Rows(), Operands((x,), (), (), index), format)


def quantize_normalized(
    x: Float[Array, "b n d"],
    scale: Float[Array, "b #n d"],
    shift: Float[Array, "b #n d"],
    eps: float,
    format: Format,
) -> Quantized:
    """x / sqrt(mean(x^2) + eps) * scale + shift, of whole rows (adaptive RMS norm)."""
    if scale.shape[1] == 1:
        operands = Operands((x,), (), (scale, shift), None)
    else:
        operands = Operands((x, scale, shift), (), (), None)
    return _quantize(_Normalized(eps), operands, format)


def quantize_gated(gate: Product, x: Product, format: Format) -> Quantized:
    """silu(gate) * x (SwiGLU)."""
    products = gate, x
    rows, scalars = [p.values for p in products], [p.row_scale for p in products]
    vectors = [p.column_scale[None, None] for p in products]
    return _quantize(_Gated(), Operands(tuple(rows), tuple(scalars), tuple(vectors), None), format)


def quantize_gelu(x: Product, bias: Float[Array, " o"], format: Format) -> Quantized:
    """gelu(x + bias), in its approximation by tanh."""
    vectors = x.column_scale[None, None], bias[None, None]
    return _quantize(_Gelu(), Operands((x.values,), (x.row_scale,), vectors, None), format)


def _quantize(compute: Callable, operands: Operands, format: Format) -> Quantized:
    mesh = jax.sharding.get_abstract_mesh()
    shared = [n for axis, n in mesh.shape.items() if axis not in mesh.manual_axes]
    problem = RowsProblem(operands.rows[0].shape[-1], format, any(n > 1 for n in shared))
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("quantisation of rows runs on", name, refused)
    return IMPLEMENTATIONS[name].run(compute, operands, format)
