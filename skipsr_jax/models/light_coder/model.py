"""The light coder: frames <-> latents of the full autoencoder, at a small part of its cost.

It has the conventions of ``models.vae.VAE``: latent frame 0 stands for pixel frame 0 alone, latent
frame k > 0 for pixel frames 4k - 3 .. 4k; a clip may be run slice by slice; latents are unscaled.
It is distilled from a full autoencoder. Its convolutions are 2-D, with neither norms nor attention;
what it knows of frames before is the input that some blocks had at the frame before, which is the
cache between slices. Beyond the frame the two finest levels see copies of its border.

Invariants: any slicing gives the unsliced result; a part of the frames depends on a halo of
``LightCoderConfig.decoder_quarter_halo`` and the like, and on frames before, and on nothing else.

Source: the structure follows TAEHV (github.com/madebyollin/taehv), whose levels at full resolution
are replaced by pixels as channels (Shi et al. 2016, arXiv 1609.05158); the decoder is conditioned
on the upscaled input as in FlashVSR (arXiv 2510.12747).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.light_coder.config import LightCoderConfig
from skipsr_jax.models.light_coder.decoder import Decoder
from skipsr_jax.models.light_coder.encoder import Encoder
from skipsr_jax.models.vae.model import LOGVAR_RANGE, RESIDUAL_GAIN, Posterior, check_frames
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.types import DType, Float


class LightCoder(nnx.Module):
    """Encoder and decoder. Convolutions run in ``dtype``; results are float32."""

    def __init__(
        self,
        config: LightCoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ):
        self.config, self.dtype = config, dtype
        self.encoder = Encoder(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.decoder = Decoder(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    @property
    def adds_to_upscaled(self) -> bool:
        """Whether the decoder takes the upscaled input and adds to it."""
        return True

    @jax.named_scope("encoder")
    def encode(self, x: Float[Array, "b f h w 3"], cache: Cache = None) -> tuple[Posterior, Cache]:
        """Frames in [-1, 1] -> the posterior of (f - 1) / 4 + 1 latent frames (f / 4 in later
        slices) of h / 8 x w / 8, and the cache for the next slice.

        Its variance is the smallest that a posterior has, so that samples are the mean. ``cache``:
        None for the first slice (4 k + 1 frames), then what the slice before returned (4 k frames).
        Raises ValueError for other frame counts and sizes not divisible by 8.
        """
        check_frames(*x.shape[1:4], first=cache is None)
        encoder = gathered(self.encoder, "encoder", self.dtype)
        mean, cache = encoder(constrain_spatial(x, SPACE_FACTOR), cache)
        mean = constrain_spatial(mean)
        return Posterior(mean, jnp.full_like(mean, LOGVAR_RANGE[0])), cache

    @jax.named_scope("decoder")
    def decode(
        self,
        z: Float[Array, "b t h w c"],
        cache: Cache = None,
        upscaled: Float[Array, "b f h_out w_out 3"] | None = None,
    ) -> tuple[Float[Array, "b f_out h_out w_out 3"], Cache]:
        """Latents (divided by the scaling factor) -> frames, about [-1, 1] but not clipped, and the
        cache for the next slice: 4 t - 3 frames from the first slice, 4 t from later ones.

        ``upscaled``: the input frames at the output's size, aligned with this slice's output, to
        which the decoder adds. Raises ValueError without it or for another shape.
        """
        b, t, h, w, _ = z.shape
        frames = TIME_FACTOR * t - (TIME_FACTOR - 1 if cache is None else 0)
        expected = (b, frames, h * SPACE_FACTOR, w * SPACE_FACTOR, 3)
        if upscaled is None or upscaled.shape != expected:
            got = "none" if upscaled is None else f"one of shape {upscaled.shape}"
            raise ValueError(
                f"the light decoder adds to the upscaled input and got {got}: give upscaled with "
                f"shape {expected}"
            )
        decoder = gathered(self.decoder, "decoder", self.dtype)
        upscaled = constrain_spatial(upscaled, SPACE_FACTOR)
        residual, cache = decoder(constrain_spatial(z), upscaled, cache)
        residual = constrain_spatial(residual, SPACE_FACTOR).astype(jnp.float32)
        return upscaled.astype(jnp.float32) + RESIDUAL_GAIN * residual, cache
