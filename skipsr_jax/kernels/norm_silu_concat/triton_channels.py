"""What the Triton kernels share that join numbers for a convolution: channels, and their map."""

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.types import Float, Int

CHANNELS = 128  # of a program, at most
_LEAST = 16


def channels_refusal(channels: int) -> str | None:
    """None when programs can share so many channels, else the reason."""
    wide = min(channels, CHANNELS)
    if wide < _LEAST or wide & (wide - 1) or channels % wide:
        return f"it takes 16, 32, 64 or a multiple of 128 channels, not {channels}"
    return None


def mapped(
    value: Float[Array, "p c"], affine: Affine, line: Int[Array, " c"], channel: Int[Array, " c"]
) -> Float[Array, "p c"]:
    """Within a kernel: silu of the map in a line of ``affine`` (references), in float32."""
    mean, gain, bias = (plgpu.load(part.at[line, channel])[None] for part in affine)
    y = (value.astype(jnp.float32) - mean) * gain + bias
    return y / (1 + jnp.exp(-y))
