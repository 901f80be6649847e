"""The decoder: latents to frames, or to what a residual decoder adds to the upscaled input."""

import functools
from typing import NamedTuple

import jax
from flax import nnx
from jax import Array

from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.layers.causal_conv import Cache, CausalConv3d
from skipsr_jax.models.layers.rearrange import space_to_depth
from skipsr_jax.models.vae.blocks import (
    MidBlock,
    UpBlock,
    norm_silu,
    run_in_order,
)
from skipsr_jax.models.vae.config import VAEConfig
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.models.vae.spatial_tiles import conv_in_tiles
from skipsr_jax.types import DType, Float


class _DecoderCache(NamedTuple):
    conv_in: Cache = None
    coarse: Cache = None
    half: Cache = None
    upscaled_half: Cache = None
    full: Cache = None
    conv_out: Cache = None


class Decoder(nnx.Module):
    """Latents -> frames. With ``residual_decoder``: -> what to add to the upscaled input.

    The upscaled input then enters at the half-resolution level (2 x 2 pixels as channels, with two
    cached frames) and at the full-resolution level (frame by frame).
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        conv = functools.partial(CausalConv3d, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        channels, groups = config.block_channels[::-1], config.norm_groups
        self.conv_in = conv(config.latent_channels, channels[0])
        self.mid_block = MidBlock(
            channels[0], groups, rngs=rngs, dtype=dtype, param_dtype=param_dtype, format=format
        )
        widths_in = (channels[0], *channels[:-1])
        # Doubled in space after the first three levels, in time after the first and second.
        upsample = (True, True, False, None)
        self.up_blocks = nnx.List(
            [
                UpBlock(
                    features_in,
                    features_out,
                    config.layers_per_block + 1,
                    groups,
                    up,
                    rngs=rngs,
                    dtype=dtype,
                    param_dtype=param_dtype,
                    format=format,
                )
                for features_in, features_out, up in zip(widths_in, channels, upsample, strict=True)
            ]
        )
        self.conv_norm_out = GroupNorm(channels[-1], groups, rngs=rngs, param_dtype=param_dtype)
        self.residual = config.residual_decoder
        if self.residual:
            self.upscaled_half = conv(12, widths_in[2])
            self.upscaled_full = conv(3, widths_in[3], (1, 3, 3))
        # A residual starts at zero, so that an untrained decoder returns the upscaled input.
        init = jax.nn.initializers.zeros if self.residual else None
        self.conv_out = conv(channels[-1], 3, kernel_init=init)
        self.remat = config.remat

    def coarse_levels(
        self, z: Float[Array, "b t h w c"], conv_in: Cache, coarse: Cache, remat: bool
    ) -> tuple[Float[Array, "b f h_out w_out o"], Cache, Cache]:
        """From the latent to the entry of the half-resolution level, and the two caches."""
        sublayers = [
            *self.mid_block.sublayers(),
            *self.up_blocks[0].sublayers("up_0"),
            *self.up_blocks[1].sublayers("up_1"),
        ]
        with jax.named_scope("conv_in"):
            x, conv_in = self.conv_in(z, conv_in)
        x, coarse = run_in_order(sublayers, x, coarse, remat=remat)
        return x, conv_in, coarse

    def add_upscaled_half(
        self,
        x: Float[Array, "b f h w c"],
        upscaled: Float[Array, "b f h_full w_full 3"] | None,
        cache: Cache,
    ) -> tuple[Float[Array, "b f h w c"], Cache]:
        """x with features of the upscaled input, and their cache, in a residual decoder."""
        if not self.residual:
            return x, ()
        with jax.named_scope("upscaled_half"):
            features, cache = self.upscaled_half(space_to_depth(upscaled, 2), cache)
        return x + features, cache

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        cache: Cache = None,
        upscaled: Float[Array, "b f h_out w_out 3"] | None = None,
        tiles: int = 1,
    ) -> tuple[Float[Array, "b f h_out w_out 3"], Cache]:
        cache = _DecoderCache() if cache is None else cache
        x, conv_in, coarse = self.coarse_levels(z, cache.conv_in, cache.coarse, self.remat)
        x, upscaled_half = self.add_upscaled_half(x, upscaled, cache.upscaled_half)
        sublayers = self.up_blocks[2].sublayers("up_2", tiles)
        x, half = run_in_order(sublayers, x, cache.half, remat=self.remat)
        if self.residual:
            with jax.named_scope("upscaled_full"):
                x = x + self.upscaled_full(upscaled)[0]
        sublayers = self.up_blocks[3].sublayers("up_3", tiles)
        x, full = run_in_order(sublayers, x, cache.full, remat=self.remat)
        with jax.named_scope("conv_out"):
            if tiles > 1:
                prepare = norm_silu(self.conv_norm_out, x)
                x, conv_out = conv_in_tiles(self.conv_out, prepare, x, cache.conv_out, tiles)
            else:
                scale_shift = self.conv_norm_out.scale_shift(x)
                x, conv_out = self.conv_out(x, cache.conv_out, scale_shift)
        return x, _DecoderCache(conv_in, coarse, half, upscaled_half, full, conv_out)
