"""The light decoder on the superblocks of a video that need it; the others are the upscaled input.

Everything up to the output of the level at 1/4 runs densely. The level at 1/2 resolution, where
most of the time is spent, runs on active superblocks (``tokens.superblocks``) with a halo of
``LightCoderConfig.decoder_half_halo``. It has no memory, so what ran before does not matter.
Invariant: active superblocks hold the dense decoder's frames, whatever else is active.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.geometry import PATCH_PIXELS, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.models.layers.rearrange import depth_to_space, space_to_depth
from skipsr_jax.models.light_coder.model import LightCoder
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae.model import RESIDUAL_GAIN
from skipsr_jax.models.vae.slices import DecodeStep
from skipsr_jax.parallel.spatial import with_halo
from skipsr_jax.tokens.superblocks import SUPERBLOCK, Superblocks
from skipsr_jax.types import Float, HostArray

SparseDecodeStep = Callable[[Params, Array, Cache, Array, Superblocks], tuple[Array, Cache]]
_HALF = SUPERBLOCK * PATCH_PIXELS // 2
"""Pixels along a superblock at 1/2 resolution."""


def _take(
    x: Float[Array, "1 f h w c"], superblocks: Superblocks, frames: int, size: int, halo: int
) -> Float[Array, "slots frames side side c"]:
    """Active superblocks of ``frames`` frames and ``size`` pixels, with a halo.

    ``x`` has ``halo`` pixels around. Slots of padding hold copies of the last superblock.
    """
    t, rows, columns = superblocks.slot_of.shape
    down = rows * size + 2 * halo - x.shape[2]
    right = columns * size + 2 * halo - x.shape[3]
    x = jnp.pad(x[0], ((0, 0), (0, down), (0, right), (0, 0)), mode="edge")
    index = jnp.minimum(superblocks.index, t * rows * columns - 1)
    shape = frames, size + 2 * halo, size + 2 * halo, x.shape[-1]

    def one(index: Array) -> Array:
        latent, row, column = jnp.unravel_index(index, (t, rows, columns))
        return jax.lax.dynamic_slice(x, (latent * frames, row * size, column * size, 0), shape)

    return jax.vmap(one)(index)


def _put(
    x: Float[Array, "slots f size size c"], superblocks: Superblocks, height: int, width: int
) -> Float[Array, "1 frames height width c"]:
    """Frames of ``height`` x ``width`` pixels with the active superblocks, and zeros elsewhere."""
    _, f, size, _, c = x.shape
    t, rows, columns = superblocks.slot_of.shape
    x = x.at[superblocks.slot_of].get(mode="fill", fill_value=0)
    x = x.transpose(0, 3, 1, 4, 2, 5, 6).reshape(1, t * f, rows * size, columns * size, c)
    return x[:, :, :height, :width]


@jax.named_scope("decoder")
def decode_sparse(
    coder: LightCoder,
    z: Float[Array, "1 t h w c"],
    cache: Cache,
    upscaled: Float[Array, "1 f h_out w_out 3"],
    superblocks: Superblocks,
) -> tuple[Float[Array, "1 f h_out w_out 3"], Cache]:
    """``coder.decode`` of a slice that does not start a clip, where superblocks are active.

    The others hold ``upscaled``. The cache is the dense decoder's.
    """
    decoder, config = coder.decoder, coder.config
    pixels = space_to_depth(upscaled.astype(coder.dtype), 2)
    x, cache = decoder.coarse(z, pixels, cache)
    x = decoder.quarter_level(with_halo(x, config.decoder_quarter_halo))
    halo = config.decoder_half_halo
    x = _take(x, superblocks, 2, _HALF // 2, -(-halo // 2))
    around = _take(with_halo(pixels, halo), superblocks, TIME_FACTOR, _HALF, halo)
    residual = _put(decoder.half_level(x, around, start=False), superblocks, *pixels.shape[2:4])
    residual = depth_to_space(residual, 2).astype(jnp.float32)
    return upscaled.astype(jnp.float32) + RESIDUAL_GAIN * residual, cache


def sparse_decode_step(coder: LightCoder) -> SparseDecodeStep:
    """``decode_sparse`` of a real or abstract module, compiled once per slice and number of slots.

    The cache is donated: its memory becomes the next one's.
    """

    def decode(
        params: Params, z: Array, cache: Cache, upscaled: Array, superblocks: Superblocks
    ) -> tuple[Array, Cache]:
        return decode_sparse(bind(coder, params), z, cache, upscaled, superblocks)

    return jax.jit(decode, donate_argnames="cache", compiler_options=convolution_options())


def decode_sparse_clip(
    dense: DecodeStep,
    sparse: SparseDecodeStep,
    params: Params,
    latents: Iterable[Array],
    upscaled: Iterable[Array | HostArray],
    plan: Iterable[Superblocks | None],
) -> Iterator[Array]:
    """The frames of each slice of a clip; one without superblocks (None) runs densely. Raises
    ValueError when the three differ in number."""
    cache = None
    for z, frames, superblocks in zip(latents, upscaled, jax.device_put(list(plan)), strict=True):
        if superblocks is None:
            decoded, cache = dense(params, z, cache, frames)
        else:
            decoded, cache = sparse(params, z, cache, frames, superblocks)
        yield decoded
