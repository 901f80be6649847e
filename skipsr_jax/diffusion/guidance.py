"""Classifier-free guidance (Ho & Salimans 2022) with rescaling (Lin et al. 2023, section 3.4).

guided = negative + scale (positive - negative), then, for rescale r > 0, times
r std(positive) / std(guided) + 1 - r. The standard deviation is that of SeedVR: unbiased, over the
latent channels of one pixel. At scale 1 callers run the positive prompt alone, and r has no effect.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

LATENT_CHANNELS = 16


def apply_guidance(
    positive: Float[Array, "*shape"],
    negative: Float[Array, "*shape"],
    scale: float,
    rescale: float = 0.0,
    channels: int = LATENT_CHANNELS,
) -> Float[Array, "*shape"]:
    """The guided prediction from those under the positive and the negative prompt, in float32.

    Args:
      positive, negative: predictions, whose last axis holds the ``channels`` of one or more pixels.
      scale: guidance scale. rescale: 0 (off) to 1.
    """
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    guided = negative + scale * (positive - negative)
    if rescale == 0:
        return guided
    target_std, _ = _std_per_pixel(positive, channels)
    std, pixels = _std_per_pixel(guided, channels)
    # A constant pixel has no deviation to correct.
    ratio = jnp.where(std > 0, target_std / jnp.where(std > 0, std, 1), 1)
    return (pixels * (rescale * ratio + 1 - rescale)).reshape(guided.shape)


def _std_per_pixel(x: Array, channels: int) -> tuple[Array, Array]:
    """(standard deviation over channels, x with an axis of channels alone)."""
    pixels = x.reshape(*x.shape[:-1], -1, channels)
    return pixels.std(axis=-1, ddof=1, keepdims=True), pixels
