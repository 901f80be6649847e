"""Quantised kernels, and the product of quantised rows with them.

The scales follow the product: (x / s_row) (w / s_channel) s_row s_channel. XLA multiplies by them
in the computation that reads the product. Both operands are stored with the contracted axis last,
which is the only layout of NVIDIA's 8-bit matrix units.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.types import DType, Float

SMALLEST = 1e-20
"""The least magnitude that a row's or a channel's largest number is taken for: no scale is 0."""


class Quantized(NamedTuple):
    """Numbers of 8 bits with scales, which stand for ``values * scale``.

    Attributes:
      values: rows (b, n, i), or a kernel (o, i) with the output channels first.
      scale: float32, (b, n, 1) or (o,).
    """

    values: Array
    scale: Array


class Product(NamedTuple):
    """The product of rows with a kernel, before their scales.

    Attributes:
      values: (b, n, o), floating or int32.
      row_scale: (b, n, 1), float32. column_scale: (o,), in the dtype of parameters.
    """

    values: Array
    row_scale: Array
    column_scale: Array

    def scaled(self) -> Float[Array, "b n o"]:
        """The product itself, in float32."""
        columns = self.column_scale.astype(jnp.float32)
        return self.values.astype(jnp.float32) * self.row_scale * columns


def quantize_kernel(kernel: Float[Any, "*stack i o"], format: Format) -> Quantized:
    """A kernel (or a stack of kernels) as values (o, i) and one scale for each output channel.

    The scales are numbers of bfloat16, so that they survive a cast to it.
    """
    transposed = jnp.swapaxes(kernel, -1, -2).astype(jnp.float32)
    largest = jnp.maximum(jnp.max(jnp.abs(transposed), axis=-1), SMALLEST)
    scale = _rounded_up(largest / format.largest)
    return Quantized(to_format(transposed / scale[..., None], format), scale)


def dequantize_kernel(kernel: Quantized, dtype: DType) -> Float[Array, "*stack i o"]:
    """The kernel (i, o) that ``kernel`` stands for, in ``dtype``."""
    scaled = kernel.values.astype(jnp.float32) * kernel.scale.astype(jnp.float32)[..., None]
    return jnp.swapaxes(scaled, -1, -2).astype(dtype)


def _rounded_up(x: Array) -> Array:
    """The least bfloat16 number that is not below x, which is positive, in float32."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    up = (bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(up, jnp.float32)


def to_format(x: Float[Array, "*rows i"], format: Format) -> Array:
    """``x`` rounded to the format's numbers. |x| is at most ``format.largest``, up to rounding."""
    # floor: Pallas has no rounding for GPUs.
    return (jnp.floor(x + 0.5) if format.is_integer else x).astype(format.dtype)


def multiply(x: Quantized, kernel: Quantized, dtype: DType) -> Product:
    """The product of rows (b, n, i) with a kernel (o, i).

    ``dtype``: of a product of floating numbers; that of integers is exact, in int32. On CPUs, which
    have no matrix unit for 8 bits, the operands are multiplied in float32.
    """
    values = jax.lax.platform_dependent(
        x.values,
        kernel.values,
        cpu=lambda a, b: _in_float32(a, b, dtype),
        default=lambda a, b: _contract(a, b, _accumulator(a, dtype)),
    )
    return Product(values, x.scale, kernel.scale)


def _accumulator(values: Array, dtype: DType) -> DType:
    return jnp.int32 if jnp.issubdtype(values.dtype, jnp.integer) else dtype


def _contract(a: Array, b: Array, dtype: DType) -> Array:
    axes = (((a.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=dtype)


def _in_float32(a: Array, b: Array, dtype: DType) -> Array:
    accumulator = _accumulator(a, dtype)
    if accumulator == jnp.int32:
        return _contract(a.astype(jnp.int32), b.astype(jnp.int32), jnp.int32)
    return _contract(a.astype(jnp.float32), b.astype(jnp.float32), jnp.float32).astype(dtype)
