"""What one step shows: latents decoded and composed with the input, to look at and to compare.

Skipped patches have the latent of the input, and show the upscaled input itself, as in inference.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.data.batch import Batch
from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.frozen_vae import encode, latent_shape
from skipsr_jax.training.losses.flow import (
    Latents,
    clean_latents,
    kept_patches,
    noise_like,
    noised_condition,
    predict,
)
from skipsr_jax.training.losses.pixels import patches_to_pixels, psnr, signed, unsigned, upscaled
from skipsr_jax.training.stage import Metrics, Preview
from skipsr_jax.training.stages.vae import decode, reconstruction_loss
from skipsr_jax.types import Bool, Float


def compose(
    vae: VAE,
    x0: Float[Array, "s t v u c"],
    low: Float[Array, "s t v u c"],
    keep: Bool[Array, "s t r q"],
    given: Float[Array, "s f h w 3"],
) -> tuple[Float[Array, "s f h w 3"], Bool[Array, "s f h w 1"]]:
    """The one-step result as inference shows it, in about [-1, 1], and the pixels of kept patches.

    Skipped patches have the latent of the input, and show the upscaled input ``given`` itself.
    """
    token = jnp.repeat(jnp.repeat(keep, 2, axis=2), 2, axis=3)[..., None]
    latent = jnp.where(token, x0, low) / vae.config.scaling_factor
    inside = patches_to_pixels(keep)
    return jnp.where(inside, decode(vae, latent, given), given), inside


def one_step_preview(
    module: DiT, vae: VAE, condition_noise: float
) -> Callable[[Params, Params, Batch, Array], Preview]:
    """The preview of a stage with parameters ``dit`` and ``text``: one step from pure noise."""

    def encoded(frozen: Params, given: Array, key: Array) -> Array:
        return encode(vae, frozen["vae"], given, jax.random.normal(key, latent_shape(vae, given)))

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        posterior, noise, level = jax.random.split(key, 3)
        pairs = zip(batch.hr, batch.lr, strict=True)
        given = [upscaled(small, truth.shape[2:4]) for truth, small in pairs]
        low = tuple(
            encoded(frozen, x, jax.random.fold_in(posterior, i)) for i, x in enumerate(given)
        )
        start, plan = noise_like(low, noise), batch.plan
        timestep = jnp.full(plan.text_length.shape, TERMINAL)
        seen = noised_condition(low, condition_noise, level)
        dit = bind(module, params["dit"])
        predicted = predict(dit, params["text"], start, seen, timestep, batch)
        x0, keep = clean_latents(predicted, start, timestep, plan), kept_patches(plan, low)
        decoder = bind(vae, frozen["vae"])
        frames = [
            unsigned(compose(decoder, *part)[0]) for part in zip(x0, low, keep, given, strict=True)
        ]
        return Preview(tuple(frames), keep)

    return preview


def shown_loss(
    decoder: VAE,
    x0: Latents,
    batch: Batch,
    counts: Sequence[int],
    gradient: float,
    frequency: float,
) -> tuple[Float[Array, ""], Metrics]:
    """``pixel_loss`` of the first samples of each shape, decoded: the mean over their pixels.

    ``counts``: how many samples of each shape; with none at all the loss is 0, without metrics.
    """
    keep = kept_patches(batch.plan, x0)
    losses, shares = [], []
    for x, low, kept, truth, small, count in zip(
        x0, batch.lr_latents, keep, batch.hr, batch.lr, counts, strict=True
    ):
        if count:
            truth = signed(truth[:count])
            given = upscaled(small[:count], truth.shape[2:4])
            shown, inside = compose(decoder, x[:count], low[:count], kept[:count], given)
            losses.append(pixel_loss(shown, inside, given, truth, gradient, frequency))
            shares.append(truth.size)
    if not losses:
        return jnp.zeros(()), {}
    return jax.tree.map(
        lambda *parts: jnp.average(jnp.stack(parts), weights=np.array(shares)), *losses
    )


def pixel_loss(
    frames: Float[Array, "s f h w 3"],
    inside: Bool[Array, "s f h w 1"],
    given: Float[Array, "s f h w 3"],
    truth: Float[Array, "s f h w 3"],
    gradient: float,
    frequency: float,
) -> tuple[Float[Array, ""], Metrics]:
    """What the kept patches of a ``compose``d result show, against the true clip.

    ``gradient``, ``frequency``: weights of the parts, as in stage vae.
    """
    error = jnp.where(inside, frames - truth, 0.0)
    total, parts = reconstruction_loss(error, gradient, frequency)
    return total, parts | {
        "psnr": psnr(frames, truth).mean(),
        "psnr_upscaled": psnr(given, truth).mean(),
        "psnr_kept": psnr(frames, truth, inside).mean(),
        "psnr_kept_upscaled": psnr(given, truth, inside).mean(),
    }
