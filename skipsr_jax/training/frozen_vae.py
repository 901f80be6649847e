"""The frozen autoencoder: loaded from a checkpoint, it encodes the batches of later stages."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.checkpoints import store
from skipsr_jax.config import from_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import SPACE_FACTOR, latent_count
from skipsr_jax.models.flops import BACKWARD_FROZEN, vae_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.slices import encode_scanned
from skipsr_jax.parallel.activations import multi_device_mesh
from skipsr_jax.parallel.mesh import pack_shards
from skipsr_jax.training.pixels import signed, upscaled
from skipsr_jax.training.settings import Settings
from skipsr_jax.types import Float

LONGEST_WHOLE = 33
"""Frames of the longest clip that is encoded at once; 101 frames of 720p would need 100 GB."""
LARGEST_WHOLE = 16 * 720 * 1280 * 128
"""Numbers of the first layer's result that a device has at once: 16 frames of 720p in the published
autoencoder, whose first layer has 128 channels."""


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
    module = abstract(lambda rngs: VAE(config, rngs=rngs, dtype=dtype))
    wanted = {"vae": to_dict(module)}
    params = store.restore_params(path, wanted, dtype=jnp.float32, branch=store.best_branch(path))
    return module, params


def encode(
    module: VAE,
    params: Params,
    frames: Float[Array, "b f h w 3"],
    noise: Float[Array, "b t h8 w8 c"] | None,
) -> Float[Array, "b t h8 w8 c"]:
    """A sample of the posterior, scaled as the transformer and the predictor take it.

    ``frames`` are in [-1, 1]; ``noise`` is standard normal, None for the posterior's mean. Clips
    beyond ``LONGEST_WHOLE`` or ``LARGEST_WHOLE`` are encoded one latent frame at a time, which is
    possible because the autoencoder is not trained here: a backward pass would have to store them
    all.
    """
    vae = bind(module, params)
    mesh = multi_device_mesh()
    pixels = frames.size // 3 // (1 if mesh is None else pack_shards(mesh))
    largest = pixels * module.config.block_channels[0]
    if frames.shape[1] > LONGEST_WHOLE or largest > LARGEST_WHOLE:
        posterior = encode_scanned(vae, frames)
    else:
        posterior, _ = vae.encode(frames)
    latent = posterior.mean if noise is None else posterior.sample(noise)
    return latent * module.config.scaling_factor


def encode_pair(
    module: VAE,
    params: Params,
    truth: Float[Array, "b f h w 3"],
    upscaled_input: Float[Array, "b f h w 3"],
    key: Array | None,
) -> tuple[Float[Array, "b t h8 w8 c"], Float[Array, "b t h8 w8 c"]]:
    """Latents of the true clips and of the upscaled inputs, encoded in one batch.

    ``key``: of the posteriors' samples; None for their means.
    """
    both = jnp.concatenate([truth, upscaled_input])
    noise = None if key is None else jax.random.normal(key, latent_shape(module, both))
    hr_latents, lr_latents = jnp.split(encode(module, params, both, noise), 2)
    return hr_latents, lr_latents


def with_latents(
    module: VAE, frozen: Params, batch: Batch, key: Array, sample: bool = True
) -> Batch:
    """``Stage.prepare``: the batch with latents of the true clips and of the upscaled inputs.

    ``sample``: whether they are samples of the posteriors, or their means.
    """
    pairs = []
    with jax.named_scope("encode"):
        for number, (hr, lr) in enumerate(zip(batch.hr, batch.lr, strict=True)):
            truth = signed(hr)
            upscaled_input = upscaled(lr, truth.shape[2:4])
            own = jax.random.fold_in(key, number) if sample else None
            pairs.append(encode_pair(module, frozen["vae"], truth, upscaled_input, own))
    hr_latents, lr_latents = zip(*pairs, strict=True)
    return batch._replace(hr_latents=hr_latents, lr_latents=lr_latents)


def coding_flops(module: VAE) -> Callable[..., float]:
    """Counts the floating-point operations of the autoencoder in a step.

    Returns a function of the batch on the host and of ``decoded``: from the number of samples of
    one shape to how many of them are decoded, none by default. It counts the encoding of true clips
    and upscaled inputs, and the decoding with its gradient with respect to the latents.
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
    return b, latent_count(f), h // SPACE_FACTOR, w // SPACE_FACTOR, module.config.latent_channels
