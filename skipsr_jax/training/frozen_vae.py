"""The trained autoencoder that later stages read and leave alone."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.checkpoints import store
from skipsr_jax.config import from_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.errors import UserError
from skipsr_jax.models.flops import BACKWARD_FROZEN, vae_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.slices import encode_scanned
from skipsr_jax.training.losses.pixels import signed, upscaled
from skipsr_jax.training.settings import Settings
from skipsr_jax.types import Float

LONGEST_WHOLE = 33
"""Frames of the longest clip that is encoded at once; 101 frames of 720p would want 100 GB."""


def load_vae(settings: Settings) -> tuple[VAE, Params]:
    """The autoencoder at ``settings.vae`` as an abstract module, and its parameters in float32.

    Raises UserError when none is named there or it cannot be read.
    """
    path = settings.vae
    if not path:
        raise UserError(
            f"stage {settings.stage} needs a trained autoencoder: set --config.vae to the workdir "
            "of stage vae or to a model checkpoint"
        )
    stored = store.load_config(path)
    if "vae" not in stored:
        raise UserError(f"{path}: holds no autoencoder")
    config = from_json(VAEConfig, stored["vae"], path)
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda: VAE(config, rngs=nnx.Rngs(0), dtype=dtype))
    wanted = {"vae": to_dict(module)}
    params = store.restore_params(path, wanted, dtype=jnp.float32, branch=store.best_branch(path))
    return module, params


def encode(
    module: VAE, params: Params, frames: Float[Array, "b f h w 3"], noise: Float[Array, "b t v u c"]
) -> Float[Array, "b t v u c"]:
    """A sample of the posterior, scaled as the transformer and the predictor see it.

    Long clips go through the autoencoder a latent frame at a time: for gradients of its own it
    would keep all of them, but nobody trains it here.
    """
    vae = bind(module, params)
    if frames.shape[1] > LONGEST_WHOLE:
        posterior = encode_scanned(vae, frames)
    else:
        posterior, _ = vae.encode(frames)
    return posterior.sample(noise) * module.config.scaling_factor


def encode_pair(
    module: VAE,
    params: Params,
    truth: Float[Array, "b f h w 3"],
    given: Float[Array, "b f h w 3"],
    key: Array,
) -> tuple[Float[Array, "b t v u c"], Float[Array, "b t v u c"]]:
    """Latents of the true clips and of the upscaled inputs, encoded at once."""
    both = jnp.concatenate([truth, given])
    noise = jax.random.normal(key, latent_shape(module, both))
    clean, low = jnp.split(encode(module, params, both, noise), 2)
    return clean, low


def with_latents(module: VAE, frozen: Params, batch: Batch, key: Array) -> Batch:
    """The batch with ``hr_latents`` and ``lr_latents``, of true clips and of upscaled inputs."""
    pairs = []
    for number, (truth, small) in enumerate(zip(batch.hr, batch.lr, strict=True)):
        truth = signed(truth)
        given = upscaled(small, truth.shape[2:4])
        own = jax.random.fold_in(key, number)
        pairs.append(encode_pair(module, frozen["vae"], truth, given, own))
    clean, low = zip(*pairs, strict=True)
    return batch._replace(hr_latents=clean, lr_latents=low)


def coding_flops(module: VAE) -> Callable[..., float]:
    """(batch on the host, how many samples are decoded of so many of one shape: none by default) ->
    operations of a step: true clips and inputs encoded, some decoded and derived by their latents.
    """
    cost = functools.cache(functools.partial(vae_flops, module))

    def flops(batch: Batch, decoded: Callable[[int], int] = lambda samples: 0) -> float:
        total = 0.0
        for clips in batch.hr:
            encoding, decoding = cost((1, *clips.shape[1:4]))
            total += 2 * len(clips) * encoding
            total += (1 + BACKWARD_FROZEN) * decoded(len(clips)) * decoding
        return total

    return flops


def latent_shape(module: VAE, frames: Float[Array, "b f h w 3"]) -> tuple[int, int, int, int, int]:
    """The shape of the latents of ``frames``."""
    b, f, h, w, _ = frames.shape
    return b, (f - 1) // 4 + 1, h // 8, w // 8, module.config.latent_channels
