"""The encoder: frames to the mean and log variance of each number of the latent."""

import functools
from typing import NamedTuple

import jax
from flax import nnx
from jax import Array

from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.layers.causal_conv import Cache, CausalConv3d
from skipsr_jax.models.vae.blocks import DownBlock, MidBlock, run_in_order
from skipsr_jax.models.vae.config import VAEConfig
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.types import DType, Float


class _EncoderCache(NamedTuple):
    conv_in: Cache = None
    sublayers: Cache = None
    conv_out: Cache = None


class Encoder(nnx.Module):
    """Frames -> mean and log variance, side by side as channels."""

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
        channels, groups = config.block_channels, config.norm_groups
        self.conv_in = conv(3, channels[0])
        widths_in = (channels[0], *channels[:-1])
        # Halved in space after the first three levels, in time after the second and third.
        downsample = (False, True, True, None)
        self.down_blocks = nnx.List(
            [
                DownBlock(
                    features_in,
                    features_out,
                    config.layers_per_block,
                    groups,
                    down,
                    rngs=rngs,
                    dtype=dtype,
                    param_dtype=param_dtype,
                    format=format,
                )
                for features_in, features_out, down in zip(
                    widths_in, channels, downsample, strict=True
                )
            ]
        )
        self.mid_block = MidBlock(
            channels[-1], groups, rngs=rngs, dtype=dtype, param_dtype=param_dtype, format=format
        )
        self.conv_norm_out = GroupNorm(channels[-1], groups, rngs=rngs, param_dtype=param_dtype)
        self.conv_out = conv(channels[-1], 2 * config.latent_channels)
        self.remat = config.remat

    def __call__(
        self, x: Float[Array, "b f h w 3"], cache: Cache = None, tiles: int = 1
    ) -> tuple[Float[Array, "b t h_out w_out moments"], Cache]:
        cache = _EncoderCache() if cache is None else cache
        # Four fifths of the traffic with memory is in the two finest levels.
        tiles_of_levels = (tiles, tiles, 1, 1)
        sublayers = [
            sublayer
            for i, (block, n) in enumerate(zip(self.down_blocks, tiles_of_levels, strict=True))
            for sublayer in block.sublayers(f"down_{i}", n)
        ]
        sublayers += self.mid_block.sublayers()
        with jax.named_scope("conv_in"):
            x, conv_in = self.conv_in(x, cache.conv_in)
        x, caches = run_in_order(sublayers, x, cache.sublayers, remat=self.remat)
        with jax.named_scope("conv_out"):
            x, conv_out = self.conv_out(x, cache.conv_out, self.conv_norm_out.scale_shift(x))
        return x, _EncoderCache(conv_in, caches, conv_out)
