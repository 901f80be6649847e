"""The preview of a stage that trains a transformer: one step from pure noise, composited."""

from collections.abc import Callable

import jax
from jax import Array

from skipsr_jax.data.batch import Batch
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.frozen_vae import encode, latent_shape
from skipsr_jax.training.losses.composited import composite
from skipsr_jax.training.losses.flow import one_step
from skipsr_jax.training.packed import kept_patches
from skipsr_jax.training.pixels import unit, upscaled
from skipsr_jax.training.stage import Preview


def one_step_preview(
    module: DiT, vae: VAE, condition_noise: float
) -> Callable[[Params, Params, Batch, Array], Preview]:
    """``Stage.preview`` for parameters ``dit`` and ``text``, and a frozen ``vae``.

    The modules are shapes. ``condition_noise``: level of the noise on the condition, 0 to 1.
    """

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        posterior, noise, level = jax.random.split(key, 3)
        pairs = zip(batch.lr, batch.hr, strict=True)
        upscaled_inputs = [upscaled(lr, hr.shape[2:4]) for lr, hr in pairs]
        lr_latents = []
        for number, frames in enumerate(upscaled_inputs):
            own = jax.random.fold_in(posterior, number)
            drawn = jax.random.normal(own, latent_shape(vae, frames))
            lr_latents.append(encode(vae, frozen["vae"], frames, drawn))
        dit = bind(module, params["dit"])
        latents = tuple(lr_latents)
        x0, _ = one_step(dit, params["text"], latents, batch, condition_noise, (noise, level))
        keep, decoder = kept_patches(batch.plan, latents), bind(vae, frozen["vae"])
        parts = zip(x0, latents, keep, upscaled_inputs, strict=True)
        return Preview(tuple(unit(composite(decoder, *part)[0]) for part in parts), keep)

    return preview
