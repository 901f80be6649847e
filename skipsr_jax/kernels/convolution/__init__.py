"""A causal 3 x 3 x 3 convolution with e4m3 products, for frames and for blocks with a halo.

The input is e4m3 already: the pass that computes it writes it so (``norm_silu_concat``). Kernels
have a scale for each output channel and are kept in the order in which the tensor cores take them.
Sums are float32; scale and bias follow them.

``api`` has the public function and chooses an implementation, ``weights`` quantises and orders
kernels, ``xla`` has the reference in plain XLA and the facts by which the choice is made, and
``mosaic`` has the Pallas kernel (Mosaic GPU) for Hopper.
"""

from skipsr_jax.kernels.convolution.api import convolve, refusal
from skipsr_jax.kernels.convolution.weights import (
    CHANNELS,
    Taps,
    quantize_taps,
    taps_shape,
)
from skipsr_jax.kernels.convolution.xla import ConvolutionProblem

__all__ = [
    "CHANNELS",
    "ConvolutionProblem",
    "Taps",
    "convolve",
    "quantize_taps",
    "refusal",
    "taps_shape",
]
