"""Quantised rows in plain XLA: the reference, for any device and any sharding."""

import jax
import jax.numpy as jnp

from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Compute, Operands
from skipsr_jax.kernels.quantized.product import SMALLEST, Quantized, to_format


def quantize(compute: Compute, operands: Operands, format: Format) -> Quantized:
    """The computed rows as values (b, n, width) and scales (b, n, 1)."""
    if operands.index is not None:
        index = operands.index[..., None]
        rows = [
            jnp.take_along_axis(x, index, axis=1, mode="fill", fill_value=0) for x in operands.rows
        ]
        operands = operands._replace(rows=tuple(rows), index=None)
    operands = jax.tree.map(lambda x: x.astype(jnp.float32), operands)
    y = compute.number(operands.rows, operands.scalars, operands.vectors)
    if compute.eps is not None:
        scale, shift = operands.modulation
        mean_square = jnp.mean(y * y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(mean_square + compute.eps) * scale + shift
    largest = jnp.maximum(jnp.max(jnp.abs(y), axis=-1, keepdims=True), SMALLEST)
    return Quantized(to_format(y * (format.largest / largest), format), largest / format.largest)
