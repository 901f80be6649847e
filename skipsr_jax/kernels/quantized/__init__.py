"""Quantised products: rows and kernels of fp8 or int8 numbers with scales, and their product.

An activation has one scale for each row (token), a kernel one for each output channel; both scales
multiply the product, not the operands. Rows are quantised by the pass that computes them
(``rows``), so that their unquantised form is never written.
"""

from skipsr_jax.kernels.quantized.formats import FORMATS, PRECISIONS, UNQUANTIZED, Format, refusal
from skipsr_jax.kernels.quantized.product import (
    Product,
    Quantized,
    dequantize_kernel,
    multiply,
    quantize_kernel,
)
from skipsr_jax.kernels.quantized.rows import (
    Residual,
    quantize_gated,
    quantize_gelu,
    quantize_normalized,
    quantize_rows,
)

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "UNQUANTIZED",
    "Format",
    "Product",
    "Quantized",
    "Residual",
    "dequantize_kernel",
    "multiply",
    "quantize_gated",
    "quantize_gelu",
    "quantize_kernel",
    "quantize_normalized",
    "quantize_rows",
    "refusal",
]
