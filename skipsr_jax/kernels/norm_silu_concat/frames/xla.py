"""Norm, SiLU and concatenation of frames in plain XLA: the reference, and its problem's facts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.scale_shift import (
    ScaleShift,
    in_dtype,
    scale_shift_silu,
)
from skipsr_jax.types import DType, Float

SpacePadding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros around each frame: (top, bottom), (left, right)."""

EndPadding = tuple[int, int]
"""Rows of zeros below each frame, and columns of zeros to its right."""


@dataclasses.dataclass(frozen=True)
class FramesProblem:
    """The facts that decide which implementation can run.

    Attributes:
      clips: in the batch.
      frames: new ones.
      height, width: of the result, ``end_padding`` included.
      end_padding: that the implementation is to append.
      channels: of a pixel.
      cached: frames in the cache.
      dtype: of the frames.
      devices: that share them.
      result_dtype: of the result and the cache: that of the frames, or e4m3.
    """

    clips: int
    frames: int
    height: int
    width: int
    end_padding: EndPadding
    channels: int
    cached: int
    dtype: np.dtype
    devices: int
    result_dtype: np.dtype


def frames_to_cache(x: Float[Array, "b f h w c"], count: int) -> Float[Array, "b cached h w c"]:
    """Copies of the last ``count`` frames, for the cache. A single frame is repeated.

    The barrier makes XLA copy from x, once it is computed. Without it XLA copies from the operands
    of x, which then cannot be computed in place, and so on: the new cache would have to be ready
    before the memory of the old one is free.
    """
    x = jax.lax.optimization_barrier(x)
    return jnp.repeat(x, count, axis=1) if x.shape[1] == 1 else x[:, x.shape[1] - count :]


def norm_silu_concat(
    x: Float[Array, "b f h w c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "b cached h w c"],
    end_padding: EndPadding = (0, 0),
    dtype: DType | None = None,
) -> tuple[Float[Array, "b f_out h_out w_out c"], Float[Array, "b cached h w c"]]:
    """See ``api.norm_silu_concat_frames``."""
    x = scale_shift_silu(x, scale_shift, dtype)
    y = jnp.concatenate([in_dtype(cache, x.dtype), x], axis=1)
    new_cache = frames_to_cache(y, cache.shape[1])
    bottom, right = end_padding
    return jnp.pad(y, ((0, 0), (0, 0), (0, bottom), (0, right), (0, 0))), new_cache
