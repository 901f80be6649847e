"""Decoded frames, and the loss in pixels between decoded and true frames.

loss = Charbonnier(e) + gradient * |differences(e)| + frequency * |spectrum(e)|

with e the error of frames in [-1, 1]. Each part is a mean over pixels, not a sum.
"""

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.stage import Metrics
from skipsr_jax.types import Float


def decode(
    coder: VAE | LightCoder,
    latent: Float[Array, "b t h8 w8 c"],
    upscaled_input: Float[Array, "b f h w 3"],
) -> Float[Array, "b f h w 3"]:
    """Decoded frames in about [-1, 1], of an unscaled latent.

    A residual decoder, as the light one is, also takes the upscaled input; another one ignores it.
    """
    with jax.named_scope("decode"):
        condition = upscaled_input if coder.adds_to_upscaled else None
        return coder.decode(latent, upscaled=condition)[0]


def charbonnier(error: Float[Array, "..."], epsilon: float = 1e-3) -> Float[Array, "..."]:
    """sqrt(error^2 + epsilon^2) of each number: L1 with a smooth minimum."""
    return jnp.sqrt(jnp.square(error) + epsilon**2)


def gradient_loss(error: Float[Array, "b f h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbours in height, width and time: edges, and flicker."""
    parts = [jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (2, 3)]
    if error.shape[1] > 1:
        parts.append(temporal_loss(error))
    return sum(parts) / len(parts)


def temporal_loss(error: Float[Array, "b f h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of the errors of successive frames: flicker, and the trails that a
    decoder with a memory leaves behind moving edges; 0 for a single frame."""
    if error.shape[1] == 1:
        return jnp.zeros(())
    return jnp.abs(jnp.diff(error, axis=1)).mean()


def frequency_loss(error: Float[Array, "b f h w c"]) -> Float[Array, ""]:
    """Mean absolute value of each frame's orthonormal spectrum."""
    return jnp.abs(jnp.fft.rfft2(error, axes=(2, 3), norm="ortho")).mean()


def reconstruction_loss(
    error: Float[Array, "b f h w c"], gradient: float, frequency: float
) -> tuple[Float[Array, ""], Metrics]:
    """The loss with these two weights, and each of its three parts."""
    parts = {
        "charbonnier": charbonnier(error).mean(),
        "gradient": gradient_loss(error),
        "frequency": frequency_loss(error),
    }
    total = parts["charbonnier"] + gradient * parts["gradient"] + frequency * parts["frequency"]
    return total, parts
