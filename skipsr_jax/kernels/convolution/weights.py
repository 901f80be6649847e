"""Kernels of 3 x 3 x 3 convolutions in the order in which the tensor cores take them.

A tap of a block of input channels is one operand of a product, with rows of 128 bytes: (out,
depth), where depth is the number of channels in 128 bytes. They follow one another by time, width,
block and height, because the rows of pixels that are fetched at once serve three taps of the
height.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.quantized.formats import FP8
from skipsr_jax.kernels.quantized.product import quantize_kernel
from skipsr_jax.types import Float

CHANNELS = 128
"""The kernel for Hopper takes channels of the input and of the result in multiples of this."""


class Taps(NamedTuple):
    """A kernel that stands for ``values * scale``.

    Attributes:
      values: e4m3, in order of use.
      scale: of each output channel.
    """

    values: Float[Array, "taps o depth"]
    scale: Float[Array, " o"]


def in_order_of_use(kernel: Float[Array, "3 3 3 i o"], depth: int) -> Float[Array, "taps o depth"]:
    """The kernel as taps of ``depth`` input channels, which divides them."""
    split = kernel.reshape(3, 3, 3, kernel.shape[3] // depth, depth, -1)
    # time, height, width, block, in, out -> time, width, block, height, out, in
    return split.transpose(0, 2, 3, 1, 5, 4).reshape(-1, kernel.shape[4], depth)


def as_kernel(taps: Float[Array, "taps o depth"]) -> Float[Array, "3 3 3 i o"]:
    """The inverse of ``in_order_of_use``."""
    _, out, depth = taps.shape
    split = taps.reshape(3, 3, -1, 3, out, depth)  # time, width, block, height, out, in
    return split.transpose(0, 3, 1, 2, 5, 4).reshape(3, 3, 3, -1, out)


def taps_shape(features_in: int, features_out: int) -> tuple[int, int, int]:
    """The shape of ``Taps.values``, of a depth of 128 where that divides ``features_in``."""
    depth = math.gcd(features_in, CHANNELS)
    return 27 * features_in // depth, features_out, depth


def quantize_taps(kernel: Float[Array, "3 3 3 i o"]) -> Taps:
    """A kernel in e4m3, with scales that are numbers of bfloat16."""
    rows, scale = quantize_kernel(kernel.reshape(-1, kernel.shape[4]), FP8)
    values = jnp.swapaxes(rows, 0, 1).reshape(kernel.shape)
    return Taps(in_order_of_use(values, taps_shape(*kernel.shape[3:])[2]), scale)
