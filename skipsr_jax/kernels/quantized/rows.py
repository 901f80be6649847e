"""Rows that are quantised by the pass that computes them: the public functions.

Each row has the scale (largest magnitude) / (largest number of the format). A computation of rows
is a function of single numbers and maybe a norm of the row, which both implementations run.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.quantized import triton, xla
from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Compute, Operands, RowsProblem
from skipsr_jax.kernels.quantized.product import Product, Quantized
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import DType, Float, Int

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": Implementation(triton.supported, triton.quantize),
    "xla": Implementation(everywhere, xla.quantize),
}


class Residual(NamedTuple):
    """The sum x + (product + bias) * gate, which its readers compute as they read.

    Attributes:
      x: (b, n, d).
      product: with values (b, n, d).
      bias: (d,), or None.
      gate: (b, 1, d), float32.
    """

    x: Array
    product: Product
    bias: Array | None
    gate: Array

    def sum(self) -> Float[Array, "b n d"]:
        """The sum, in x's dtype."""
        operands = self.operands()
        rows, scalars, vectors = (
            [x.astype(jnp.float32) for x in arrays]
            for arrays in (operands.rows, operands.scalars, operands.vectors)
        )
        return _sum(rows, scalars, vectors, self.x.dtype).astype(self.x.dtype)

    def operands(self) -> Operands:
        """What ``_sum`` takes."""
        vectors = [self.product.column_scale.astype(jnp.float32) * self.gate]
        if self.bias is not None:
            vectors.append(self.bias.astype(jnp.float32) * self.gate)
        return Operands((self.x, self.product.values), (self.product.row_scale,), tuple(vectors))


def _sum(rows, scalars, vectors, dtype: DType):
    (x, product), (row_scale,), (column_scale, *bias) = rows, scalars, vectors
    update = product * row_scale * column_scale
    # As it is stored, so that all readers have the same numbers.
    return (x + (update + bias[0] if bias else update)).astype(dtype).astype(jnp.float32)


def _first(rows, scalars, vectors):
    return rows[0]


def _gated(rows, scalars, vectors):
    gate, x = (r * s * v for r, s, v in zip(rows, scalars, vectors, strict=True))
    return gate / (1 + jnp.exp(-gate)) * x


def _gelu(rows, scalars, vectors):
    column_scale, bias = vectors
    return jax.nn.gelu(rows[0] * scalars[0] * column_scale + bias, approximate=True)


def quantize_rows(
    x: Float[Array, "b n i"], format: Format, index: Int[Array, "b n_out"] | None = None
) -> Quantized:
    """Rows of x; with ``index`` those that it names, zeros where it points past the end."""
    return _quantize(Compute("rows", _first), Operands((x,), index=index), format)


def quantize_normalized(
    x: Float[Array, "b n d"] | Residual,
    scale: Float[Array, "b #n d"],
    shift: Float[Array, "b #n d"],
    eps: float,
    format: Format,
) -> Quantized:
    """x / sqrt(mean(x^2) + eps) * scale + shift, of whole rows (adaptive RMS norm)."""
    if isinstance(x, Residual):
        dtype = x.x.dtype
        compute = Compute("normalized_sum", lambda *arrays: _sum(*arrays, dtype), eps)
        operands = x.operands()
    else:
        compute, operands = Compute("normalized", _first, eps), Operands((x,))
    return _quantize(compute, operands._replace(modulation=(scale, shift)), format)


def quantize_gated(gate: Product, x: Product, format: Format) -> Quantized:
    """silu(gate) * x (SwiGLU)."""
    operands = Operands(
        (gate.values, x.values),
        (gate.row_scale, x.row_scale),
        (gate.column_scale[None, None], x.column_scale[None, None]),
    )
    return _quantize(Compute("gated", _gated), operands, format)


def quantize_gelu(x: Product, bias: Float[Array, " o"], format: Format) -> Quantized:
    """gelu(x + bias), in its approximation by tanh."""
    vectors = x.column_scale[None, None], bias[None, None]
    return _quantize(Compute("gelu", _gelu), Operands((x.values,), (x.row_scale,), vectors), format)


def _quantize(compute: Compute, operands: Operands, format: Format) -> Quantized:
    mesh = jax.sharding.get_abstract_mesh()
    shared = [n for axis, n in mesh.shape.items() if axis not in mesh.manual_axes]
    problem = RowsProblem(operands.rows[0].shape[-1], format, any(n > 1 for n in shared))
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("quantisation of rows runs on", name, refused)
    return IMPLEMENTATIONS[name].run(compute, operands, format)
