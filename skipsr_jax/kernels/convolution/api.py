"""The public function, and the order in which implementations are tried."""

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.convolution import mosaic, xla
from skipsr_jax.kernels.convolution.weights import Taps
from skipsr_jax.kernels.convolution.xla import ConvolutionProblem, Padding
from skipsr_jax.kernels.target import Target, current_target
from skipsr_jax.types import DType, Float

# Fastest first; the last one runs everywhere, slowly.
IMPLEMENTATIONS = {
    "pallas_mosaic": Implementation(mosaic.supported, mosaic.convolve_taps),
    "xla": Implementation(everywhere, xla.convolve),
}


def refusal(problem: ConvolutionProblem, target: Target) -> str | None:
    """Why no kernel multiplies e4m3 in such a convolution on the target; None if one does."""
    return mosaic.supported(problem, target)


def convolve(
    x: Float[Array, "b f h w i"],
    taps: Taps,
    bias: Float[Array, " o"],
    *,
    padding: Padding,
    dtype: DType,
) -> Float[Array, "b f_out h_out w_out o"]:
    """The convolution of frames behind the two frames before them, with its bias.

    Args:
      x: e4m3 frames: f = f_out + 2.
      taps: the kernel. The tensor cores take i and o that are multiples of 128.
      bias: of each output channel.
      padding: zeros around frames in space; h_out = h - 2 + 2 padding[0].
      dtype: of the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    problem = ConvolutionProblem(x.shape[-1], taps.values.shape[1], jnp.dtype(dtype), devices)
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("convolutions in e4m3 run on", name, refused)
    return IMPLEMENTATIONS[name].run(x, taps, bias, padding, dtype)
