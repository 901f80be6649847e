"""Scale and shift of each channel, then SiLU: what a convolution's input goes through, in XLA."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float


class ScaleShift(NamedTuple):
    """(x - mean) * scale + shift, for each channel in each frame, in float32."""

    mean: Float[Array, "*b f c"]
    scale: Float[Array, "*b f c"]
    shift: Float[Array, "*b f c"]


def scale_shift_silu(
    x: Float[Array, "b f h w c"], scale_shift: ScaleShift | None
) -> Float[Array, "b f h w c"]:
    """silu((x - mean) * scale + shift), computed in float32, in x's dtype; x itself for None."""
    if scale_shift is None:
        return x
    mean, scale, shift = (part[..., None, None, :] for part in scale_shift)
    return jax.nn.silu((x.astype(jnp.float32) - mean) * scale + shift).astype(x.dtype)
