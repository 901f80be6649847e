"""From the bytes of a batch to what losses compare, on the device.

Networks see pixels in [-1, 1]. The upscaled input is the one that inference makes
(skipsr_jax.media.resize.upscale), here by the same weights as matrices.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.resize import weights
from skipsr_jax.pixels.resample import resample
from skipsr_jax.types import Bool, Float, UInt8


def signed(frames: UInt8[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
    """Bytes -> [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def unsigned(frames: Float[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
    """About [-1, 1] -> [0, 1], as it is shown."""
    return jnp.clip(0.5 * frames + 0.5, 0.0, 1.0)


def upscaled(
    frames: UInt8[Array, "b f h w 3"], size: tuple[int, int]
) -> Float[Array, "b f h2 w2 3"]:
    """The low-quality frames at ``size`` = (height, width): bicubic, clipped to [-1, 1]."""
    rows = weights(frames.shape[2], size[0], "bicubic")
    columns = weights(frames.shape[3], size[1], "bicubic")
    return jnp.clip(resample(signed(frames), rows, columns), -1.0, 1.0)


def patches_to_pixels(mask: Bool[Array, "b t r q"]) -> Bool[Array, "b f h w 1"]:
    """What each patch covers: 16 x 16 pixels of 4 frames, of 1 frame for the first (Eq. 1)."""
    later = jnp.repeat(mask[:, 1:], PATCH_FRAMES, axis=1)
    mask = jnp.concatenate([mask[:, :1], later], axis=1)
    mask = jnp.repeat(jnp.repeat(mask, PATCH_PIXELS, axis=2), PATCH_PIXELS, axis=3)
    return mask[..., None]


def charbonnier(error: Float[Array, "..."], epsilon: float = 1e-3) -> Float[Array, "..."]:
    """sqrt(error^2 + eps^2): L1 with a smooth bottom."""
    return jnp.sqrt(jnp.square(error) + epsilon**2)


def psnr(
    frames: Float[Array, "b f h w 3"],
    truth: Float[Array, "b f h w 3"],
    weight: Bool[Array, "b f h w 1"] | None = None,
) -> Float[Array, " b"]:
    """PSNR of each clip in dB, frames in [-1, 1] (clipped here), over the pixels with weight.

    Capped at 100 dB; a clip without any weight counts as 100.
    """
    error = jnp.square((jnp.clip(frames, -1, 1) - truth) / 2).mean(axis=-1, keepdims=True)
    share = jnp.ones_like(error) if weight is None else weight.astype(jnp.float32)
    axes = (1, 2, 3, 4)
    mse = (error * share).sum(axes) / jnp.maximum(share.sum(axes), 1)
    return -10 * jnp.log10(jnp.maximum(mse, 1e-10))
