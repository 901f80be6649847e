"""What kernels make of numbers on their way into a convolution: a map of each channel, and silu."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float


class Affine(NamedTuple):
    """(x - mean) * gain + bias of each channel in each frame, in float32."""

    mean: Float[Array, "*b f c"]
    gain: Float[Array, "*b f c"]
    bias: Float[Array, "*b f c"]


def activated(x: Float[Array, "n f h w c"], affine: Affine | None) -> Float[Array, "n f h w c"]:
    """silu of the affine map, in float32, then as x was; x itself without a map."""
    if affine is None:
        return x
    mean, gain, bias = (part[..., None, None, :] for part in affine)
    return jax.nn.silu((x.astype(jnp.float32) - mean) * gain + bias).astype(x.dtype)
