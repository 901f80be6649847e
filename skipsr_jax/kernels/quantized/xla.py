"""Quantised rows in plain XLA: the reference, for any device and any sharding."""

import jax.numpy as jnp

from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Compute, Operands
from skipsr_jax.kernels.quantized.product import SMALLEST, Quantized, to_format


def quantize(compute: Compute, operands: Operands, format: Format) -> Quantized:
    """The computed rows as values (b, n, width) and scales (b, n, 1)."""
    rows, scalars, vectors, index = operands
    if index is not None:
        rows = [
            jnp.take_along_axis(x, index[..., None], axis=1, mode="fill", fill_value=0)
            for x in rows
        ]
    rows, scalars, vectors = (
        [x.astype(jnp.float32) for x in arrays] for arrays in (rows, scalars, vectors)
    )
    y = compute(rows, scalars, vectors, rows[0].shape[-1])
    largest = jnp.maximum(jnp.max(jnp.abs(y), axis=-1, keepdims=True), SMALLEST)
    return Quantized(to_format(y * (format.largest / largest), format), largest / format.largest)
