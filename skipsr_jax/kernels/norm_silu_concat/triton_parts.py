"""What the Triton kernels of both forms share: the split of channels, and scale, shift and SiLU."""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.scale_shift import E4M3, ScaleShift
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.kernels.target import Target
from skipsr_jax.types import DType, Float, Int

PIXELS = 16  # of a program
CHANNELS = 128  # of a program, at most
_FEWEST_CHANNELS = 16


def channels_refusal(channels: int) -> str | None:
    """None when programs can split so many channels among them, else the reason."""
    wide = min(channels, CHANNELS)
    if wide < _FEWEST_CHANNELS or wide & (wide - 1) or channels % wide:
        return f"it takes 16, 32, 64 or a multiple of 128 channels, not {channels}"
    return None


def result_refusal(result: DType, dtype: DType, target: Target) -> str | None:
    """None when the target converts to the result's dtype in a kernel, else the reason."""
    if result not in (dtype, E4M3):
        return f"its results are {dtype} or e4m3, not {result}"
    if result == E4M3 and (target.compute_capability or (0, 0)) < (8, 9):
        return "results in e4m3 need compute capability 8.9"
    return None


def load_scale_shift_silu(
    value: Float[Array, "pixels c"],
    scale_shift: ScaleShift,
    row: Int[Array, " c"],
    channel: Int[Array, " c"],
) -> Float[Array, "pixels c"]:
    """Within a kernel: silu((value - mean) * scale + shift), in float32.

    ``scale_shift`` holds references to (rows, channels); the values at ``row`` are loaded.
    """
    mean, scale, shift = (plgpu.load(part.at[row, channel])[None] for part in scale_shift)
    y = (value.astype(jnp.float32) - mean) * scale + shift
    return y / (1 + jnp.exp(-y))
