"""The composited output of training: kept patches decoded, skipped ones from the upscaled input.

In latents skipped patches have the latent of the upscaled input. Inference composites with a ramp
of ``pixels.feather`` pixels at the seams and fixes colours (``skipsr_jax.pixels``); losses and
previews do neither, so that each pixel belongs to one of the two.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.data.batch import Batch
from skipsr_jax.geometry import PATCH
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.losses.reconstruction import decode, reconstruction_loss
from skipsr_jax.training.packed import Latents, kept_patches
from skipsr_jax.training.pixels import patches_to_pixels, psnr, signed, upscaled
from skipsr_jax.training.stage import Metrics
from skipsr_jax.types import Bool, Float


def composited_latents(
    x0: Float[Array, "samples t h8 w8 c"],
    lr_latents: Float[Array, "samples t h8 w8 c"],
    keep: Bool[Array, "samples t r q"],
) -> Float[Array, "samples t h8 w8 c"]:
    """``x0`` in kept patches, ``lr_latents`` in skipped ones."""
    kept_latents = jnp.repeat(jnp.repeat(keep, PATCH, axis=2), PATCH, axis=3)[..., None]
    return jnp.where(kept_latents, x0, lr_latents)


def composite(
    coder: VAE | LightCoder,
    x0: Float[Array, "samples t h8 w8 c"],
    lr_latents: Float[Array, "samples t h8 w8 c"],
    keep: Bool[Array, "samples t r q"],
    upscaled_input: Float[Array, "samples f h w 3"],
) -> tuple[Float[Array, "samples f h w 3"], Bool[Array, "samples f h w 1"]]:
    """The composited output in about [-1, 1], and which pixels are of kept patches.

    Args:
      coder: with its parameters.
      x0: the transformer's clean latents; read in kept patches only.
      lr_latents: of the upscaled input.
      keep: the keep mask.
      upscaled_input: in [-1, 1].
    """
    latents = composited_latents(x0, lr_latents, keep) / coder.config.scaling_factor
    kept_pixels = patches_to_pixels(keep)
    frames = decode(coder, latents, upscaled_input)
    return jnp.where(kept_pixels, frames, upscaled_input), kept_pixels


def composited_loss(
    decoder: VAE,
    x0: Latents,
    batch: Batch,
    counts: Sequence[int],
    gradient: float,
    frequency: float,
) -> tuple[Float[Array, ""], Metrics]:
    """``pixel_loss`` of the composited output of the first samples of each shape.

    ``batch`` has latents. ``counts``: how many samples of each shape are decoded; with none at all
    the loss is 0, without metrics. Shapes count by their pixels.
    """
    keep = kept_patches(batch.plan, x0)
    losses, pixels = [], []
    for x, lr_latents, kept, hr, lr, count in zip(
        x0, batch.lr_latents, keep, batch.hr, batch.lr, counts, strict=True
    ):
        if count:
            truth = signed(hr[:count])
            upscaled_input = upscaled(lr[:count], truth.shape[2:4])
            frames, kept_pixels = composite(
                decoder, x[:count], lr_latents[:count], kept[:count], upscaled_input
            )
            losses.append(
                pixel_loss(frames, kept_pixels, upscaled_input, truth, gradient, frequency)
            )
            pixels.append(truth.size)
    if not losses:
        return jnp.zeros(()), {}
    return jax.tree.map(
        lambda *parts: jnp.average(jnp.stack(parts), weights=np.array(pixels)), *losses
    )


def pixel_loss(
    frames: Float[Array, "samples f h w 3"],
    kept_pixels: Bool[Array, "samples f h w 1"],
    upscaled_input: Float[Array, "samples f h w 3"],
    truth: Float[Array, "samples f h w 3"],
    gradient: float,
    frequency: float,
) -> tuple[Float[Array, ""], Metrics]:
    """The reconstruction loss of a composited output within its kept patches, and PSNR.

    ``gradient``, ``frequency``: weights of two parts of the loss (``losses.reconstruction``).
    """
    error = jnp.where(kept_pixels, frames - truth, 0.0)
    total, parts = reconstruction_loss(error, gradient, frequency)
    return total, parts | {
        "psnr": psnr(frames, truth).mean(),
        "psnr_upscaled": psnr(upscaled_input, truth).mean(),
        "psnr_kept": psnr(frames, truth, kept_pixels).mean(),
        "psnr_kept_upscaled": psnr(upscaled_input, truth, kept_pixels).mean(),
    }
