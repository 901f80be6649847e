"""The convolution in plain XLA: the reference, and its problem's facts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from skipsr_jax.kernels.convolution.weights import Taps, as_kernel
from skipsr_jax.types import DType, Float

Padding = tuple[int, int]
"""Rows of zeros above and below each frame, and columns of zeros on its left and right: 1, or 0
where the input has the halo already."""


@dataclasses.dataclass(frozen=True)
class ConvolutionProblem:
    """The facts that decide which implementation can run.

    Attributes:
      features_in, features_out: channels.
      dtype: of the result.
      devices: that share the frames.
    """

    features_in: int
    features_out: int
    dtype: np.dtype
    devices: int = 1


def convolve(
    x: Float[Array, "b f h w i"],
    taps: Taps,
    bias: Float[Array, " o"],
    padding: Padding,
    dtype: DType,
) -> Float[Array, "b f_out h_out w_out o"]:
    """See ``api.convolve``. It multiplies in float32, which holds products of e4m3 exactly."""
    y = lax.conv_general_dilated(
        x.astype(jnp.float32),
        as_kernel(taps.values).astype(jnp.float32),
        window_strides=(1, 1, 1),
        padding=((0, 0), *((size, size) for size in padding)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return (y * taps.scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(dtype)
