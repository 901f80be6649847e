"""The causal video autoencoder: frames <-> latents, 8 x smaller in space and 4 x in time.

Latent frame 0 stands for pixel frame 0 alone, latent frame k > 0 for pixel frames 4k - 3 .. 4k.
Time is causal, so a clip may be run slice by slice: ``encode`` and ``decode`` return what the next
slice needs as a value. Invariant: any slicing gives the unsliced result.

Latents here are unscaled. The diffusion model works on latents times ``scaling_factor``.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Carry, CausalConv3d
from skipsr_jax.models.vae.blocks import (
    DownBlock,
    MidBlock,
    UpBlock,
    normed_silu,
    run_in_order,
    space_to_depth,
)
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.models.vae.spatial_tiles import conv_in_tiles
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.types import Float

_LEVELS = 4
_LOGVAR_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The autoencoder's sizes.

    ``residual_decoder``: the decoder also sees the upscaled input and predicts what to add to it.
    ``remat``: compute each part's intermediates again in the backward pass instead of keeping them.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    latent_channels: int = 16
    scaling_factor: float = 0.9152
    residual_decoder: bool = False
    remat: bool = False

    def __post_init__(self):
        if len(self.block_channels) != _LEVELS:
            raise ValueError(
                f"block_channels has {len(self.block_channels)} entries; an autoencoder of "
                f"{SPACE_FACTOR} x {SPACE_FACTOR} x {TIME_FACTOR} has {_LEVELS}"
            )
        wrong = [c for c in self.block_channels if c < 1 or c % self.norm_groups]
        if wrong:
            raise ValueError(
                f"block_channels {wrong} are not positive multiples of norm_groups "
                f"{self.norm_groups}"
            )
        if self.layers_per_block < 1 or self.latent_channels < 1:
            raise ValueError(
                f"layers_per_block {self.layers_per_block} and latent_channels "
                f"{self.latent_channels} must be at least 1"
            )


SEEDVR = VAEConfig()
TINY = VAEConfig(
    block_channels=(16, 32, 64, 64), layers_per_block=1, norm_groups=8, residual_decoder=True
)


RESIDUAL_GAIN = 0.1
"""What a residual decoder's output counts in pixels of [-1, 1]. True residuals are a few
hundredths: without it one optimizer step moves the picture by as much as there is to learn."""


class Posterior(NamedTuple):
    """The gaussian that the encoder gives for each latent number, in float32."""

    mean: Float[Array, "b f h w c"]
    logvar: Float[Array, "b f h w c"]

    def sample(self, noise: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """mean + std * noise, for standard gaussian noise."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise


def posterior_of(moments: Float[Array, "b f h w d"]) -> Posterior:
    """From the encoder's output: means and log variances side by side."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return Posterior(mean, jnp.clip(logvar, *_LOGVAR_RANGE))


def check_frames(frames: int, height: int, width: int, first: bool = True) -> None:
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


def check_tiles(tiles: int, latent_rows: int) -> None:
    """Raises ValueError unless a picture can be cut into so many."""
    if tiles < 1 or latent_rows % tiles:
        raise ValueError(f"{tiles} tiles do not divide {latent_rows} rows of latents")


class Encoder(nnx.Module):
    """Frames -> mean and log variance, side by side as channels."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        channels, groups = config.block_channels, config.norm_groups
        self.conv_in = CausalConv3d(3, channels[0], **kind)
        widths_in = (channels[0], *channels[:-1])
        # Halved in space after the first three levels, in time after the second and third.
        downsample = (False, True, True, None)
        self.down_blocks = nnx.List(
            [
                DownBlock(i, o, config.layers_per_block, groups, down, **kind)
                for i, o, down in zip(widths_in, channels, downsample, strict=True)
            ]
        )
        self.mid_block = MidBlock(channels[-1], groups, **kind)
        self.conv_norm_out = GroupNorm(channels[-1], groups, param_dtype=param_dtype)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels, **kind)
        self.remat = config.remat

    def __call__(self, x: Float[Array, "b f h w 3"], carry: Carry = None, tiles: int = 1):
        start, body, end = (None, None, None) if carry is None else carry
        cut = (tiles, tiles, 1, 1)  # four fifths of what passes through memory are there
        blocks = zip(self.down_blocks, cut, strict=True)
        parts = [part for block, tiles in blocks for part in block.parts(tiles)]
        x, start = self.conv_in(x, start)
        x, body = run_in_order([*parts, *self.mid_block.parts()], x, body, remat=self.remat)
        x, end = self.conv_out(x, end, self.conv_norm_out.affine(x))
        return x, (start, body, end)


class Decoder(nnx.Module):
    """Latents -> frames. With ``residual_decoder``: -> what to add to the upscaled input.

    The upscaled input then enters at the half-resolution level (2 x 2 pixels as channels, with two
    frames of memory) and at the full-resolution level (frame by frame).
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        channels, groups = config.block_channels[::-1], config.norm_groups
        self.conv_in = CausalConv3d(config.latent_channels, channels[0], **kind)
        self.mid_block = MidBlock(channels[0], groups, **kind)
        widths_in = (channels[0], *channels[:-1])
        # Doubled in space after the first three levels, in time after the first and second.
        upsample = (True, True, False, None)
        self.up_blocks = nnx.List(
            [
                UpBlock(i, o, config.layers_per_block + 1, groups, up, **kind)
                for i, o, up in zip(widths_in, channels, upsample, strict=True)
            ]
        )
        self.conv_norm_out = GroupNorm(channels[-1], groups, param_dtype=param_dtype)
        self.residual = config.residual_decoder
        if self.residual:
            self.upscaled_half = CausalConv3d(12, widths_in[2], **kind)
            self.upscaled_full = CausalConv3d(3, widths_in[3], (1, 3, 3), **kind)
        # A residual starts at zero, so that an untrained decoder returns the upscaled input.
        init = jax.nn.initializers.zeros if self.residual else None
        self.conv_out = CausalConv3d(channels[-1], 3, kernel_init=init, **kind)
        self.remat = config.remat

    def __call__(
        self,
        z: Float[Array, "b t v u c"],
        carry: Carry = None,
        upscaled: Float[Array, "b f h w 3"] | None = None,
        tiles: int = 1,
    ):
        start, low, half, half_in, full, end = (None,) * 6 if carry is None else carry
        blocks = self.up_blocks
        x, start = self.conv_in(z, start)
        parts = [*self.mid_block.parts(), *blocks[0].parts(), *blocks[1].parts()]
        x, low = run_in_order(parts, x, low, remat=self.remat)
        if self.residual:
            features, half_in = self.upscaled_half(space_to_depth(upscaled), half_in)
            x = x + features
        x, half = run_in_order(blocks[2].parts(tiles), x, half, remat=self.remat)
        if self.residual:
            x = x + self.upscaled_full(upscaled)[0]
        x, full = run_in_order(blocks[3].parts(tiles), x, full, remat=self.remat)
        if tiles > 1:
            act = normed_silu(self.conv_norm_out, x)
            x, end = conv_in_tiles(self.conv_out, act, x, end, tiles)
        else:
            x, end = self.conv_out(x, end, self.conv_norm_out.affine(x))
        return x, (start, low, half, () if half_in is None else half_in, full, end)


class VAE(nnx.Module):
    """Encoder and decoder. Convolutions run in ``dtype``; results are float32."""

    def __init__(
        self,
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.config, self.dtype = config, dtype
        self.encoder = Encoder(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.decoder = Decoder(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def encode(
        self, x: Float[Array, "b f h w 3"], carry: Carry = None, tiles: int = 1
    ) -> tuple[Posterior, Carry]:
        """Frames in [-1, 1] -> the posterior of (f - 1) / 4 + 1 latent frames (f / 4 in later
        slices) of h / 8 x w / 8, and the carry for the next slice.

        ``carry``: None for the first slice (4 k + 1 frames), then what the slice before returned
        (4 k frames). ``tiles``: so many of the picture, one after the other, in the two finest
        levels, which takes less memory and gives the same; a divisor of h / 8. Raises ValueError
        for other frame counts, other tiles and sizes not divisible by 8.
        """
        check_frames(*x.shape[1:4], first=carry is None)
        check_tiles(tiles, x.shape[2] // SPACE_FACTOR)
        encoder = gathered(self.encoder, "encoder", self.dtype)
        moments, carry = encoder(constrain_spatial(x, SPACE_FACTOR), carry, tiles)
        moments = constrain_spatial(moments)
        return posterior_of(moments), carry

    def decode(
        self,
        z: Float[Array, "b t v u c"],
        carry: Carry = None,
        upscaled: Float[Array, "b f h w 3"] | None = None,
        tiles: int = 1,
    ) -> tuple[Float[Array, "b f h w 3"], Carry]:
        """Latents (divided by the scaling factor) -> frames, about [-1, 1] but not clipped, and the
        carry for the next slice: 4 t - 3 frames from the first slice, 4 t from later ones.

        ``upscaled``: the input frames at the output's size, aligned with this slice's output; given
        if and only if the model has a residual decoder, else ValueError. ``tiles``: as in
        ``encode``, a divisor of v.
        """
        b, t, v, u, _ = z.shape
        check_tiles(tiles, v)
        frames = TIME_FACTOR * t - (TIME_FACTOR - 1 if carry is None else 0)
        expected = (b, frames, v * SPACE_FACTOR, u * SPACE_FACTOR, 3)
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
        y, carry = decoder(constrain_spatial(z), carry, upscaled, tiles)
        y = constrain_spatial(y, SPACE_FACTOR)
        y = y.astype(jnp.float32)
        if upscaled is not None:
            y = upscaled.astype(jnp.float32) + RESIDUAL_GAIN * y
        return y, carry
