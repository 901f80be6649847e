"""The causal video autoencoder: frames <-> latents, 8 x smaller in space and 4 x in time.

Latent frame 0 stands for pixel frame 0 alone, latent frame k > 0 for pixel frames 4k - 3 .. 4k.
Time is causal, so a clip may be run slice by slice: ``encode`` and ``decode`` return the cache that
the next slice needs as a value. Invariant: any slicing gives the unsliced result.

Latents here are unscaled. The diffusion model works on latents times ``scaling_factor``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.vae.config import VAEConfig
from skipsr_jax.models.vae.decoder import Decoder
from skipsr_jax.models.vae.encoder import Encoder
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.types import DType, Float

LOGVAR_RANGE = (-30.0, 20.0)
"""The smallest and the largest log variance of a posterior."""

RESIDUAL_GAIN = 0.1
"""Factor on a residual decoder's output, in pixels of [-1, 1]. True residuals are a few hundredths:
without it one optimizer step moves the frames by as much as there is to learn."""


class Posterior(NamedTuple):
    """The Gaussian that the encoder gives for each number of the latent, in float32."""

    mean: Float[Array, "b t h w c"]
    logvar: Float[Array, "b t h w c"]

    def sample(self, noise: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """mean + std * noise, for standard Gaussian noise."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise


def posterior_of(moments: Float[Array, "b t h w moments"]) -> Posterior:
    """The posterior from the encoder's output: means and log variances side by side."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return Posterior(mean, jnp.clip(logvar, *LOGVAR_RANGE))


def check_frames(frames: int, height: int, width: int, first: bool) -> None:
    """Raises ValueError unless a slice of these sizes can be encoded."""
    if height % SPACE_FACTOR or width % SPACE_FACTOR or height < 1 or width < 1:
        raise ValueError(
            f"height {height} and width {width} must be positive multiples of {SPACE_FACTOR}: pad "
            f"to {-(-height // SPACE_FACTOR) * SPACE_FACTOR} x "
            f"{-(-width // SPACE_FACTOR) * SPACE_FACTOR}"
        )
    extra = 1 if first else 0
    if frames < 1 or (frames - extra) % TIME_FACTOR:
        needed = f"{TIME_FACTOR} k + 1" if first else f"{TIME_FACTOR} k"
        kind = "the first" if first else "a later"
        more = extra + -(-(max(frames, 1) - extra) // TIME_FACTOR) * TIME_FACTOR
        raise ValueError(
            f"{kind} slice of a clip has {frames} frames; it must have {needed}: "
            f"repeat the last frame up to {more}"
        )


def _check_tiles(tiles: int, latent_rows: int) -> None:
    """Raises ValueError unless frames can be cut into so many spatial tiles."""
    if tiles < 1 or latent_rows % tiles:
        raise ValueError(f"{tiles} spatial tiles do not divide {latent_rows} rows of latents")


class VAE(nnx.Module):
    """Encoder and decoder. Convolutions run in ``dtype``; results are float32.

    ``format``: of the products of the resnets' wide 3 x 3 x 3 convolutions, fp8, for inference on
    one device; None: ``dtype``.
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        format: Format | None = None,
    ):
        self.config, self.dtype, self.format = config, dtype, format
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype, "format": format}
        self.encoder, self.decoder = Encoder(config, **kinds), Decoder(config, **kinds)

    @property
    def adds_to_upscaled(self) -> bool:
        """Whether the decoder takes the upscaled input and adds to it."""
        return self.config.residual_decoder

    @jax.named_scope("encoder")
    def encode(
        self, x: Float[Array, "b f h w 3"], cache: Cache = None, tiles: int = 1
    ) -> tuple[Posterior, Cache]:
        """Frames in [-1, 1] -> the posterior of (f - 1) / 4 + 1 latent frames (f / 4 in later
        slices) of h / 8 x w / 8, and the cache for the next slice.

        ``cache``: None for the first slice (4 k + 1 frames), then what the slice before returned
        (4 k frames). ``tiles``: spatial tiles into which the two finest levels cut the frames, one
        after the other, which takes less memory and gives the same; a divisor of h / 8. Raises
        ValueError for other frame counts, other tiles and sizes not divisible by 8.
        """
        check_frames(*x.shape[1:4], first=cache is None)
        _check_tiles(tiles, x.shape[2] // SPACE_FACTOR)
        encoder = gathered(self.encoder, "encoder", self.dtype)
        moments, cache = encoder(constrain_spatial(x, SPACE_FACTOR), cache, tiles)
        moments = constrain_spatial(moments)
        return posterior_of(moments), cache

    @jax.named_scope("decoder")
    def decode(
        self,
        z: Float[Array, "b t h w c"],
        cache: Cache = None,
        upscaled: Float[Array, "b f h_out w_out 3"] | None = None,
        tiles: int = 1,
    ) -> tuple[Float[Array, "b f_out h_out w_out 3"], Cache]:
        """Latents (divided by the scaling factor) -> frames, about [-1, 1] but not clipped, and the
        cache for the next slice: 4 t - 3 frames from the first slice, 4 t from later ones.

        ``upscaled``: the input frames at the output's size, aligned with this slice's output; given
        if and only if the model has a residual decoder, else ValueError. ``tiles``: as in
        ``encode``, a divisor of h.
        """
        b, t, h, w, _ = z.shape
        _check_tiles(tiles, h)
        frames = TIME_FACTOR * t - (TIME_FACTOR - 1 if cache is None else 0)
        expected = (b, frames, h * SPACE_FACTOR, w * SPACE_FACTOR, 3)
        if self.config.residual_decoder and upscaled is None:
            raise ValueError(
                f"this autoencoder adds to the upscaled input: give upscaled with shape {expected}"
            )
        if not self.config.residual_decoder and upscaled is not None:
            raise ValueError("this autoencoder has no residual decoder: leave upscaled out")
        if upscaled is not None and upscaled.shape != expected:
            raise ValueError(
                f"upscaled has shape {upscaled.shape}; the decoder's output has {expected}"
            )
        decoder = gathered(self.decoder, "decoder", self.dtype)
        y, cache = decoder(constrain_spatial(z), cache, upscaled, tiles)
        y = constrain_spatial(y, SPACE_FACTOR)
        y = y.astype(jnp.float32)
        if upscaled is not None:
            y = upscaled.astype(jnp.float32) + RESIDUAL_GAIN * y
        return y, cache
