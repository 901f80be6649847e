"""Losses between a generator and a discriminator, from logits and features alone.

With s = softplus, r the logits of true samples and g those of generated ones:

  non-saturating (Goodfellow et al. 2014):    L_D = s(-r) + s(g),   L_G = s(-g)
  relativistic (Jolicoeur-Martineau 2019):    L_D = s(g - r),       L_G = s(r - g)

In the latter each generated sample is paired with the true one of the same input, as in R3GAN
(Huang et al. 2024) and SeedVR2 (arXiv 2506.05301, section 3.3).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Bool, Float

Pairing = Literal["relativistic", "non_saturating"]


def mean_of(
    values: Float[Array, "b k"] | Bool[Array, "b k"], chosen: Bool[Array, "b k"] | None
) -> Float[Array, ""]:
    """The mean of the chosen values; 0 where none is. ``chosen``: None for all."""
    if chosen is None:
        return values.mean()
    return jnp.where(chosen, values, 0).sum() / jnp.maximum(chosen.sum(), 1)


def discriminator_loss(
    real: Float[Array, "b k"],
    fake: Float[Array, "b k"],
    pairing: Pairing,
    chosen: Bool[Array, "b k"] | None = None,
) -> Float[Array, ""]:
    """L_D, the mean over the samples. ``chosen``: the logits that count; None: all do."""
    if pairing == "relativistic":
        return mean_of(jax.nn.softplus(fake - real), chosen)
    return mean_of(jax.nn.softplus(-real) + jax.nn.softplus(fake), chosen)


def generator_loss(
    real: Float[Array, "b k"],
    fake: Float[Array, "b k"],
    pairing: Pairing,
    chosen: Bool[Array, "b k"] | None = None,
) -> Float[Array, ""]:
    """L_G, the mean over the samples. The non-saturating loss does not read ``real``.

    ``chosen``: the logits that count; None: all do.
    """
    difference = real - fake if pairing == "relativistic" else -fake
    return mean_of(jax.nn.softplus(difference), chosen)


def perturbation_penalty(
    logits: Float[Array, "b k"], perturbed: Float[Array, "b k"]
) -> Float[Array, ""]:
    """|D(x) - D(x + sigma eps)|^2, the mean over the samples.

    An approximation of R1 on true samples and of R2 on generated ones, whose second-order gradient
    is too expensive for networks of this size (APT, equation 9; SeedVR2, equation 3).
    """
    return jnp.square(logits - perturbed).mean()
