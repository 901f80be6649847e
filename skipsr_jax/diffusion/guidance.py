"""Classifier-free guidance (Ho & Salimans 2022) with rescaling (Lin et al. 2023, section 3.4).

guided = negative + scale (positive - negative), then, for rescale r > 0, times
r std(positive) / std(guided) + 1 - r. The standard deviation is that of SeedVR: unbiased, over the
latent channels of one pixel. At scale 1 only the positive prompt runs and r has no part in it.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

LATENT_CHANNELS = 16


def combine(
    positive: Float[Array, "*s"],
    negative: Float[Array, "*s"],
    scale: float,
    rescale: float = 0.0,
    channels: int = LATENT_CHANNELS,
) -> Float[Array, "*s"]:
    """Guided prediction in float32. The last axis holds the ``channels`` of one or more pixels."""
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    guided = negative + scale * (positive - negative)
    if rescale == 0:
        return guided

    def deviation(x):
        pixels = x.reshape(*x.shape[:-1], -1, channels)
        return pixels.std(axis=-1, ddof=1, keepdims=True), pixels

    want, _ = deviation(positive)
    have, pixels = deviation(guided)
    # A constant pixel has no deviation to correct.
    ratio = jnp.where(have > 0, want / jnp.where(have > 0, have, 1), 1)
    return (pixels * (rescale * ratio + 1 - rescale)).reshape(guided.shape)


def guided(
    predict: Callable[[Array], Float[Array, "*s"]],
    positive: Array,
    negative: Array,
    scale: float,
    rescale: float = 0.0,
    channels: int = LATENT_CHANNELS,
) -> Float[Array, "*s"]:
    """``predict`` under guidance from two prompts; at scale 1 the negative one is not run."""
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance rescale must lie in [0, 1], not {rescale}")
    prediction = predict(positive)
    if scale == 1:
        return prediction
    return combine(prediction, predict(negative), scale, rescale, channels)
