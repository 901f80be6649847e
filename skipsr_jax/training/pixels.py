"""Pixel values on the device: from the bytes of a batch to [-1, 1], and PSNR.

Networks take pixels in [-1, 1]. The upscaled input is the one that inference makes
(``skipsr_jax.media.resize.upscale``), here by the same weights as matrices.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.evaluation.metrics import psnr_of_mse
from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.resize import weights
from skipsr_jax.pixels.resample import resample
from skipsr_jax.types import Bool, Float, UInt8


def signed(frames: UInt8[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
    """Bytes -> [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def unit(frames: Float[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
    """About [-1, 1] -> [0, 1], clipped, as pictures are displayed."""
    return jnp.clip(0.5 * frames + 0.5, 0.0, 1.0)


def upscaled(
    frames: UInt8[Array, "b f h w 3"], size: tuple[int, int]
) -> Float[Array, "b f h2 w2 3"]:
    """The upscaled input: low-quality frames at ``size`` = (height, width), bicubic, in [-1, 1]."""
    rows = weights(frames.shape[2], size[0], "bicubic")
    columns = weights(frames.shape[3], size[1], "bicubic")
    return jnp.clip(resample(signed(frames), rows, columns), -1.0, 1.0)


def patches_to_pixels(mask: Bool[Array, "b t r q"]) -> Bool[Array, "b f h w 1"]:
    """The pixels of each patch: 16 x 16 of 4 frames, of 1 frame for the first patch in time."""
    later = jnp.repeat(mask[:, 1:], PATCH_FRAMES, axis=1)
    mask = jnp.concatenate([mask[:, :1], later], axis=1)
    mask = jnp.repeat(jnp.repeat(mask, PATCH_PIXELS, axis=2), PATCH_PIXELS, axis=3)
    return mask[..., None]


def psnr(
    frames: Float[Array, "b f h w 3"],
    truth: Float[Array, "b f h w 3"],
    weight: Bool[Array, "b f h w 1"] | None = None,
) -> Float[Array, " b"]:
    """PSNR of each clip in dB over the pixels where ``weight`` is true, at most 100.

    Frames are in [-1, 1] (``frames`` are clipped here). A clip without any weight has 100.
    """
    error = jnp.square((jnp.clip(frames, -1, 1) - truth) / 2).mean(axis=-1, keepdims=True)
    weights = jnp.ones_like(error) if weight is None else weight.astype(jnp.float32)
    axes = (1, 2, 3, 4)
    return psnr_of_mse((error * weights).sum(axes) / jnp.maximum(weights.sum(axes), 1))
