"""Stage ``vae``: trains the autoencoder to reconstruct true clips and upscaled inputs.

loss = reconstruction(e) + kl * KL(q, N(0, 1)), with e = decode(mean + std * noise) - x

(``losses.reconstruction``). Parts are means over pixels or latent numbers, not sums; the KL term
keeps the latents near unit variance, where the diffusion model's scale expects them.

In part of the samples the upscaled input is encoded in place of the true clip, because the
condition of the diffusion model is such a latent. The target of a plain decoder is the encoded
clip. The target of a residual decoder, which takes the upscaled input in any case, is the true
clip: so the latent of the condition already decodes to a good picture, and better latents to better
ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, require_between, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.models.flops import BACKWARD, vae_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.presets import VAE_PRESETS
from skipsr_jax.models.vae import VAE, Posterior, VAEConfig
from skipsr_jax.training.losses.reconstruction import decode, reconstruction_loss
from skipsr_jax.training.pixels import patches_to_pixels, psnr, signed, unit, upscaled
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Preview, Stage, buffers, recipe_of
from skipsr_jax.types import Float

INITIAL_LOGVAR = -6.0
"""Posteriors start narrow (std 0.05). Starting at std 1, the noise drowns the latents while a
residual decoder can do without them, and the KL term closes the channel for good."""


@dataclasses.dataclass(frozen=True)
class VaeLoss:
    """The section ``loss``: weights of its parts, and what is encoded.

    Attributes:
      gradient: weight of the error of gradients in the reconstruction loss.
      frequency: weight of the error of the spectrum in the reconstruction loss.
      kl: weight of the KL divergence.
      low_quality_share: fraction of the samples whose latent is that of the upscaled input.
    """

    gradient: float = 0.5
    frequency: float = 0.05
    kl: float = 1e-6
    low_quality_share: float = 0.25

    def __post_init__(self):
        for name in ("gradient", "frequency", "kl"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require_between("low_quality_share", self.low_quality_share, 0, 1)


def kl_divergence(posterior: Posterior) -> Float[Array, ""]:
    """KL(q || N(0, 1)) per latent number, in nats."""
    mean, logvar = posterior.mean, posterior.logvar
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar).mean()


def make(settings: Settings, config: VAEConfig | None = None) -> Stage:
    """Returns the stage. ``config`` replaces the autoencoder of ``settings.model``."""
    config = config or VAE_PRESETS[settings.model]
    loss_config: VaeLoss = settings.loss
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda rngs: VAE(config, rngs=rngs, dtype=dtype))

    def init(key: Array) -> Params:
        params = to_dict(VAE(config, rngs=nnx.Rngs(key)))
        bias = params["encoder"]["conv_out"]["bias"]
        narrow = bias.at[config.latent_channels :].set(INITIAL_LOGVAR)
        params["encoder"]["conv_out"]["bias"] = narrow
        return {"vae": params}

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        vae = bind(module, params["vae"])
        (hr,), (lr,) = batch.hr, batch.lr
        truth = signed(hr)
        upscaled_input = upscaled(lr, truth.shape[2:4])
        which, noise = jax.random.split(key)
        low = jax.random.uniform(which, (len(truth), 1, 1, 1, 1)) < loss_config.low_quality_share
        encoded = jnp.where(low, upscaled_input, truth)
        with jax.named_scope("encode"):
            posterior, _ = vae.encode(encoded)
        latent = posterior.sample(jax.random.normal(noise, posterior.mean.shape))
        frames = decode(vae, latent, upscaled_input)
        target = truth if config.residual_decoder else encoded
        weights = loss_config.gradient, loss_config.frequency
        total, parts = reconstruction_loss(frames - target, *weights)
        kl = kl_divergence(posterior)
        decibel, high = psnr(frames, truth), 1.0 - low.ravel()
        metrics = parts | {
            "kl": kl,
            "psnr": jnp.sum(decibel * high) / jnp.maximum(high.sum(), 1),
            "psnr_of_input": jnp.sum(decibel * low.ravel()) / jnp.maximum(low.sum(), 1),
            "psnr_upscaled": psnr(upscaled_input, truth).mean(),
            "latent_std": posterior.mean.std(),
            "posterior_std": jnp.exp(0.5 * posterior.logvar).mean(),
        }
        return total + loss_config.kl * kl, metrics

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        vae = bind(module, params["vae"])
        (hr,), (lr,), (keep,) = batch.hr, batch.lr, batch.mask
        truth = signed(hr)
        upscaled_input = upscaled(lr, truth.shape[2:4])
        posterior, _ = vae.encode(truth)
        latent = posterior.sample(jax.random.normal(key, posterior.mean.shape))
        frames = decode(vae, latent, upscaled_input)
        frames = jnp.where(patches_to_pixels(keep), frames, upscaled_input)
        return Preview((unit(frames),), (keep,))

    cost = functools.cache(lambda shape: sum(vae_flops(module, shape)))

    return Stage(
        init=init,
        loss=loss,
        frozen={},
        fixed=buffers(module, "vae"),
        recipe=recipe_of(settings, masks=False),
        config={"vae": to_json(config)},
        preview=preview,
        flops=lambda batch: (1 + BACKWARD) * cost(batch.hr[0].shape[:4]),
    )
