"""The light decoder: latents and the upscaled input to what is added to the upscaled input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.rearrange import (
    depth_to_space,
    depth_to_time,
    space_to_depth,
    time_to_depth,
)
from skipsr_jax.models.light_coder.config import LightCoderConfig
from skipsr_jax.models.light_coder.layers import (
    Block,
    Conv2d,
    behind,
    crop,
    each_frame,
    with_memories,
)
from skipsr_jax.parallel.spatial import map_with_halos
from skipsr_jax.types import DType, Float

_LATENT_RANGE = 3.0
"""Latents are clipped softly to this range, as TAEHV does (github.com/madebyollin/taehv)."""
QUARTER, HALF = 2, 4
"""Pixels of the levels at 1/4 and 1/2 resolution along a latent pixel."""


class _DecoderCache(NamedTuple):
    """The last input frame of each block with memory: at 1/8 resolution, and of the one at 1/4."""

    eighth: tuple[Cache, ...]
    quarter: Cache


class Decoder(nnx.Module):
    """Latents and the upscaled input -> what to add to the upscaled input.

    The upscaled input enters every level with its pixels, and at 1/4 and 1/8 pairs and fours of
    frames, as channels. Each level grows by moving channels to pixels and frames.
    """

    def __init__(
        self, config: LightCoderConfig, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        half, quarter, eighth = config.decoder_channels
        blocks = config.decoder_blocks
        self.config, self.dtype = config, dtype
        self.conv_in = Conv2d(config.latent_channels, eighth, padding="SAME", **kinds)
        self.upscaled_eighth = Conv2d(4 * 64 * 3, eighth, 1, **kinds)
        self.eighth = nnx.List([Block(eighth, True, "SAME", **kinds) for _ in range(blocks[2])])
        self.to_quarter = Conv2d(eighth, 2 * 4 * quarter, 1, **kinds)
        self.upscaled_quarter = Conv2d(2 * 16 * 3, quarter, 1, **kinds)
        self.quarter = nnx.List(
            [Block(quarter, i == 0, "VALID", **kinds) for i in range(blocks[1])]
        )
        self.to_half = Conv2d(quarter, 2 * 4 * half, 1, **kinds)
        self.upscaled_half = Conv2d(4 * 3, half, 1, **kinds)
        self.half = nnx.List([Block(half, False, "VALID", **kinds) for _ in range(blocks[0])])
        # The residual starts at zero, so that an untrained decoder returns the upscaled input.
        self.conv_out = Conv2d(half, 4 * 3, kernel_init=jax.nn.initializers.zeros, **kinds)

    def coarse(
        self,
        z: Float[Array, "b t h w c"],
        pixels: Float[Array, "b f h_half w_half 12"],
        cache: _DecoderCache | None,
    ) -> tuple[Float[Array, "b f_quarter h_quarter w_quarter o"], _DecoderCache]:
        """The input of the 1/4 level behind the frame before it, and the cache for the next slice.

        ``pixels``: of the upscaled input, 2 x 2 as channels, at the start of a clip with three
        copies of the first frame before it (f = 4 t).
        """
        quarter_pixels = space_to_depth(pixels, 2)
        eighth_pixels = space_to_depth(quarter_pixels, 2)

        def start(z: Array, pixels: Array) -> Array:
            z = _LATENT_RANGE * jnp.tanh(z.astype(self.dtype) / _LATENT_RANGE)
            return jax.nn.relu(self.conv_in(z) + self.upscaled_eighth(pixels))

        x = each_frame(start, z, time_to_depth(eighth_pixels, TIME_FACTOR))
        x, eighth = with_memories(self.eighth, x, cache and cache.eighth)
        x = each_frame(lambda x: depth_to_space(self.to_quarter(x), 2), x)
        x = each_frame(
            lambda x, pixels: jax.nn.relu(x + self.upscaled_quarter(pixels)),
            depth_to_time(x, 2),
            time_to_depth(quarter_pixels, 2),
        )
        x = behind(None, x[:, 1:]) if cache is None else behind(cache.quarter, x)
        return x, _DecoderCache(eighth, x[:, -1:])

    def quarter_level(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f_out h_out w_out c"]:
        """The output of the 1/4 level from what ``coarse`` returns.

        ``x`` has ``config.decoder_quarter_halo`` pixels around; the result has what
        ``config.decoder_half_halo`` pixels of the next level need.
        """

        def quarter(x: Array, before: Array) -> Array:
            first, *rest = self.quarter
            x = first(x, before)
            for block in rest:
                x = block(x)
            return x

        return each_frame(quarter, x[:, 1:], x[:, :-1])

    def half_level(
        self,
        x: Float[Array, "b f_quarter h w c"],
        pixels: Float[Array, "b f h_half w_half 12"],
        start: bool,
    ) -> Float[Array, "b f h_out w_out 12"]:
        """The residual, 2 x 2 pixels as channels, from the output of the 1/4 level.

        ``pixels``: one frame for each of the residual, with ``config.decoder_half_halo`` pixels
        around. ``start``: the frames start a clip.
        """
        halo = self.config.decoder_half_halo

        def half(x: Array, pixels: Array) -> Array:
            x = jax.nn.relu(crop(x, halo % 2) + self.upscaled_half(pixels))
            for block in self.half:
                x = block(x)
            return self.conv_out(x)

        x = depth_to_time(each_frame(lambda x: depth_to_space(self.to_half(x), 2), x), 2)
        return each_frame(half, x[:, 1 if start else 0 :], pixels)

    def __call__(
        self,
        z: Float[Array, "b t h w c"],
        upscaled: Float[Array, "b f h_out w_out 3"],
        cache: Cache = None,
    ) -> tuple[Float[Array, "b f h_out w_out 3"], Cache]:
        start = cache is None
        pixels = space_to_depth(upscaled.astype(self.dtype), 2)
        first = [pixels[:, :1]] * (TIME_FACTOR - 1) if start else []
        x, cache = self.coarse(z, jnp.concatenate([*first, pixels], axis=1), cache)
        halos = self.config.decoder_quarter_halo, self.config.decoder_half_halo
        residual = map_with_halos(
            self,
            lambda decoder, x, pixels: decoder.half_level(decoder.quarter_level(x), pixels, start),
            [(x, halos[0], QUARTER), (pixels, halos[1], HALF)],
        )
        return depth_to_space(residual, 2), cache
