"""Stage ``vae``: the autoencoder learns to give back clips, and upscaled clips.

loss = Charbonnier(e) + gradient * |differences(e)| + frequency * |spectrum(e)| + kl * KL(q, N(0,1))
with e = decode(mean + std * noise) - x. Parts are means over pixels or latent numbers, not sums;
``kl`` keeps the latents near unit variance, where the diffusion model's scale expects them.

In part of the samples the upscaled input is encoded in place of the true clip, because the
condition of the diffusion model is such a latent. A plain decoder has to give back what was
encoded. A residual decoder, which sees the upscaled input in any case, has to give the true clip as
well as it can: so the condition's own latent already decodes to a good picture, and better latents
to better ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.models.flops import BACKWARD, vae_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.presets import VAE_PRESETS
from skipsr_jax.models.vae import VAE, Posterior, VAEConfig
from skipsr_jax.training.losses.pixels import (
    charbonnier,
    patches_to_pixels,
    psnr,
    signed,
    unsigned,
    upscaled,
)
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Preview, Stage, buffers, recipe_of
from skipsr_jax.types import Float

INITIAL_LOGVAR = -6.0
"""Posteriors start narrow (std 0.05). Starting at std 1, the noise drowns the latents while a
residual decoder can do without them, and the KL term closes the channel for good."""


@dataclasses.dataclass(frozen=True)
class VaeLoss:
    """Weights of the parts of the loss, see the module's first lines.

    ``low_quality_share``: share of samples whose latent is that of the upscaled input.
    """

    gradient: float = 0.5
    frequency: float = 0.05
    kl: float = 1e-6
    low_quality_share: float = 0.25

    def __post_init__(self):
        for name in ("gradient", "frequency", "kl"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        share = self.low_quality_share
        require(0 <= share <= 1, "low_quality_share", share, "from 0 to 1")


def kl_divergence(posterior: Posterior) -> Float[Array, ""]:
    """KL(q || N(0, 1)) per latent number, in nats."""
    mean, logvar = posterior.mean, posterior.logvar
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar).mean()


def gradient_loss(error: Float[Array, "b f h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbours in height, width and time: edges, and flicker."""
    parts = [jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (2, 3)]
    if error.shape[1] > 1:
        parts.append(jnp.abs(jnp.diff(error, axis=1)).mean())
    return sum(parts) / len(parts)


def frequency_loss(error: Float[Array, "b f h w c"]) -> Float[Array, ""]:
    """Mean absolute value of each frame's orthonormal spectrum."""
    return jnp.abs(jnp.fft.rfft2(error, axes=(2, 3), norm="ortho")).mean()


def reconstruction_loss(
    error: Float[Array, "b f h w c"], gradient: float, frequency: float
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the three pixel losses, and each of them."""
    parts = {
        "charbonnier": charbonnier(error).mean(),
        "gradient": gradient_loss(error),
        "frequency": frequency_loss(error),
    }
    total = parts["charbonnier"] + gradient * parts["gradient"] + frequency * parts["frequency"]
    return total, parts


def decode(
    vae: VAE, latent: Float[Array, "b t v u c"], condition: Float[Array, "b f h w 3"]
) -> Float[Array, "b f h w 3"]:
    """Decoded frames; ``condition``, the upscaled input, goes in where the model takes it."""
    return vae.decode(latent, upscaled=condition if vae.config.residual_decoder else None)[0]


def make(settings: Settings, config: VAEConfig | None = None) -> Stage:
    """The stage. ``config`` stands in for the model's own autoencoder."""
    config = config or VAE_PRESETS[settings.model]
    weight: VaeLoss = settings.loss
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda: VAE(config, rngs=nnx.Rngs(0), dtype=dtype))

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
        condition = upscaled(lr, truth.shape[2:4])
        which, noise = jax.random.split(key)
        low = jax.random.uniform(which, (len(truth), 1, 1, 1, 1)) < weight.low_quality_share
        encoded = jnp.where(low, condition, truth)
        posterior, _ = vae.encode(encoded)
        latent = posterior.sample(jax.random.normal(noise, posterior.mean.shape))
        frames = decode(vae, latent, condition)
        target = truth if config.residual_decoder else encoded
        total, parts = reconstruction_loss(frames - target, weight.gradient, weight.frequency)
        kl = kl_divergence(posterior)
        decibel, high = psnr(frames, truth), 1.0 - low.ravel()
        metrics = parts | {
            "kl": kl,
            "psnr": jnp.sum(decibel * high) / jnp.maximum(high.sum(), 1),
            "psnr_of_input": jnp.sum(decibel * low.ravel()) / jnp.maximum(low.sum(), 1),
            "psnr_upscaled": psnr(condition, truth).mean(),
            "latent_std": posterior.mean.std(),
            "posterior_std": jnp.exp(0.5 * posterior.logvar).mean(),
        }
        return total + weight.kl * kl, metrics

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        vae = bind(module, params["vae"])
        (hr,), (lr,), (keep,) = batch.hr, batch.lr, batch.mask
        truth = signed(hr)
        condition = upscaled(lr, truth.shape[2:4])
        posterior, _ = vae.encode(truth)
        latent = posterior.sample(jax.random.normal(key, posterior.mean.shape))
        frames = jnp.where(patches_to_pixels(keep), decode(vae, latent, condition), condition)
        return Preview((unsigned(frames),), (keep,))

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
