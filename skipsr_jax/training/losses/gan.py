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

from skipsr_jax.types import Float

Pairing = Literal["relativistic", "non_saturating"]


def discriminator_loss(
    real: Float[Array, "b k"], fake: Float[Array, "b k"], pairing: Pairing
) -> Float[Array, ""]:
    """L_D, mean over the samples."""
    if pairing == "relativistic":
        return jax.nn.softplus(fake - real).mean()
    return (jax.nn.softplus(-real) + jax.nn.softplus(fake)).mean()


def generator_loss(
    real: Float[Array, "b k"], fake: Float[Array, "b k"], pairing: Pairing
) -> Float[Array, ""]:
    """L_G, mean over the samples; ``real`` plays a part in the relativistic one only."""
    return jax.nn.softplus(real - fake if pairing == "relativistic" else -fake).mean()


def perturbation_penalty(
    logits: Float[Array, "b k"], perturbed: Float[Array, "b k"]
) -> Float[Array, ""]:
    """|D(x) - D(x + sigma eps)|^2, mean over the samples.

    Stands for R1 on true and R2 on generated samples, whose gradient of a gradient is out of reach
    for networks of this size (APT, equation 9; SeedVR2, equation 3).
    """
    return jnp.square(logits - perturbed).mean()
