"""Resizes frames on the device, with one matrix of weights for each axis, and pads them.

The weights are those of ``skipsr_jax.media.resize``, which resizes on the host; inference and
training both upscale their low-quality frames with ``resample`` and ``bicubic_weights``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.geometry import padded_size
from skipsr_jax.media.resize import weights
from skipsr_jax.types import Float, HostArray


def bicubic_weights(
    size: tuple[int, int], target: tuple[int, int]
) -> tuple[Float[HostArray, "h2 h"], Float[HostArray, "w2 w"]]:
    """The weights for rows and for columns that bring ``size`` (height, width) to ``target``.

    Each row of a matrix sums to one. Bicubic interpolation overshoots: clip the result.
    """
    rows, columns = (weights(side, out, "bicubic") for side, out in zip(size, target, strict=True))
    return rows, columns


def resample(
    frames: Float[Array, "*b h w c"],
    rows: Float[Array | HostArray, "h2 h"],
    columns: Float[Array | HostArray, "w2 w"],
) -> Float[Array, "*b h2 w2 c"]:
    """Frames whose rows and columns are weighted means of the old ones, in float32 precision."""
    x = jnp.einsum("...hwc,Ww->...hWc", frames, columns, precision="highest")
    return jnp.einsum("...hWc,Hh->...HWc", x, rows, precision="highest")


def to_unit_range(frames: Array) -> Float[Array, "..."]:
    """uint8 or uint16 on their full scale -> float32 in [0, 1]."""
    return frames.astype(jnp.float32) * np.float32(1 / np.iinfo(frames.dtype).max)


@jax.named_scope("upscale")
def upscale(
    frames: Array,
    rows: Float[Array | HostArray, "h2 h"],
    columns: Float[Array | HostArray, "w2 w"],
) -> Float[Array, "*b h2 w2 c"]:
    """uint8 or uint16 frames -> resampled ones in [0, 1], as ``media.resize.upscale`` makes them.

    Args:
      frames: (..., h, w, c).
      rows, columns: as from ``bicubic_weights``.
    """
    return jnp.clip(resample(to_unit_range(frames), rows, columns), 0, 1)


def pad_to_patches(frames: Float[Array, "f h w c"]) -> Float[Array, "f h2 w2 c"]:
    """Frames with the last row and column repeated up to whole patches; ``geometry.pad_space``
    does the same on the host."""
    height, width = padded_size(*frames.shape[1:3])
    below, right = height - frames.shape[1], width - frames.shape[2]
    return jnp.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
