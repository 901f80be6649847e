"""The light encoder: frames to the mean of each number of the latent."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.rearrange import space_to_depth, time_to_depth
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


def pairs(x: Float[Array, "b f h w c"], start: bool) -> Float[Array, "b f_out h w o"]:
    """Two frames at a time as channels. At the start of a clip the first frame is a pair with
    itself."""
    return time_to_depth(behind(None, x) if start else x, 2)


class Encoder(nnx.Module):
    """Frames -> means.

    The levels at 1/2 and 1/4 take frames and pairs of frames one by one and have no memory.
    """

    def __init__(
        self, config: LightCoderConfig, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        half, quarter, eighth = config.encoder_channels
        blocks = config.encoder_blocks
        self.config, self.dtype = config, dtype
        self.conv_in = Conv2d(4 * 3, half, **kinds)
        self.half = nnx.List([Block(half, False, "VALID", **kinds) for _ in range(blocks[0])])
        self.to_quarter = Conv2d(2 * 4 * half, quarter, 1, **kinds)
        self.quarter = nnx.List([Block(quarter, False, "VALID", **kinds) for _ in range(blocks[1])])
        self.to_eighth = Conv2d(2 * 4 * quarter, eighth, 1, **kinds)
        self.eighth = nnx.List([Block(eighth, True, "SAME", **kinds) for _ in range(blocks[2])])
        self.conv_out = Conv2d(eighth, config.latent_channels, 1, **kinds)

    def fine(
        self, frames: Float[Array, "b f h w 3"], start: bool
    ) -> Float[Array, "b t h_out w_out c"]:
        """What the 1/8 level takes, from frames with ``config.encoder_halo`` pixels around.

        ``start``: the frames start a clip.
        """
        config = self.config
        margin = 2 * config.encoder_quarter_halo - config.encoder_half_shrink
        wanted = 2 * Block.SHRINK * config.encoder_blocks[1]

        def half(x: Array) -> Array:
            x = jax.nn.relu(self.conv_in(x))
            for block in self.half:
                x = block(x)
            return crop(x, margin - wanted)

        def quarter(x: Array) -> Array:
            x = jax.nn.relu(self.to_quarter(x))
            for block in self.quarter:
                x = block(x)
            return x

        x = each_frame(half, space_to_depth(frames.astype(self.dtype), 2))
        x = each_frame(quarter, pairs(space_to_depth(x, 2), start))
        return pairs(space_to_depth(x, 2), start)

    def coarse(
        self, x: Float[Array, "b t h w c"], cache: Cache
    ) -> tuple[Float[Array, "b t h w o"], Cache]:
        """The means, from what ``fine`` returns, and the cache for the next slice."""
        x = each_frame(lambda x: jax.nn.relu(self.to_eighth(x)), x)
        x, cache = with_memories(self.eighth, x, cache)
        return each_frame(self.conv_out, x), cache

    def __call__(
        self, frames: Float[Array, "b f h w 3"], cache: Cache = None
    ) -> tuple[Float[Array, "b t h_out w_out c"], Cache]:
        start = cache is None
        halo = self.config.encoder_halo
        fine = map_with_halos(
            self, lambda encoder, x: encoder.fine(x, start), [(frames, halo, SPACE_FACTOR)]
        )
        mean, cache = self.coarse(fine, cache)
        return mean.astype(jnp.float32), cache
