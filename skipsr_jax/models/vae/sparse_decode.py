"""The decoder on the blocks of a video that need it; the other blocks are the upscaled input.

Everything up to the entry of the half-resolution level runs densely. From there on, where four
fifths of the decoder's work are, only active blocks run (``tokens.blocks``, ``sparse_layers``), a
latent frame at a time. The parameters are those of ``decoder.Decoder``. Invariant: with every block
active the frames are the dense decoder's.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.geometry import PATCH_PIXELS, SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae.decoder import Decoder
from skipsr_jax.models.vae.model import RESIDUAL_GAIN, VAE
from skipsr_jax.models.vae.sparse_layers import (
    activate,
    block_conv,
    block_group_norm,
    block_resnets,
    block_upsample,
    dense_to_block_conv,
    dense_to_block_resnet,
    put_blocks,
    take_blocks,
)
from skipsr_jax.tokens.blocks import HALF, Blocks
from skipsr_jax.types import Float, HostArray

SparseDecodeStep = Callable[[Params, Array, Cache, Array, Blocks], tuple[Array, Cache]]


class _Cache(NamedTuple):
    """What a latent frame leaves to the next: the dense sub-layers, then those on active blocks."""

    conv_in: Cache = None
    coarse: Cache = None
    upscaled_half: Cache = None
    half_entry: Cache = None
    half: Cache = None
    upsample: Cache = None
    full: Cache = None
    norm_out: Cache = None
    conv_out: Cache = None


def _decode_blocks(
    decoder: Decoder,
    z: Float[Array, "1 1 h w c"],
    cache: _Cache | None,
    upscaled: Float[Array, "1 f h_out w_out 3"],
    blocks: Blocks,
) -> tuple[Float[Array, "slots f size size 3"], _Cache]:
    """The decoder's output on active blocks, and the next cache."""
    active = activate(blocks, (HALF, PATCH_PIXELS))
    old = cache or _Cache()
    half_level, full_level = decoder.up_blocks[2:]
    x, conv_in, coarse = decoder.coarse_levels(z, old.conv_in, old.coarse, remat=False)
    x, upscaled_half = decoder.add_upscaled_half(x, upscaled, old.upscaled_half)
    with jax.named_scope("up_2/resnet_0"):
        x, half_entry = dense_to_block_resnet(
            half_level.resnets[0], x, old.half_entry, active, HALF
        )
    scopes = [f"up_2/resnet_{i}" for i in range(1, len(half_level.resnets))]
    x, half = block_resnets(half_level.resnets[1:], x, old.half, active, scopes)
    with jax.named_scope("up_2/upsample"):
        x, upsample = block_upsample(half_level.upsamplers[0], x, old.upsample, active)
    if decoder.residual:
        with jax.named_scope("upscaled_full"):
            x = (
                x
                + dense_to_block_conv(decoder.upscaled_full, upscaled, None, blocks, PATCH_PIXELS)[
                    0
                ]
            )
    scopes = [f"up_3/resnet_{i}" for i in range(len(full_level.resnets))]
    x, full = block_resnets(full_level.resnets, x, old.full, active, scopes)
    with jax.named_scope("conv_out"):
        scale_shift, norm_out = block_group_norm(decoder.conv_norm_out, x, old.norm_out, active)
        x, conv_out = block_conv(decoder.conv_out, x, old.conv_out, active, scale_shift)
    return x, _Cache(
        conv_in, coarse, upscaled_half, half_entry, half, upsample, full, norm_out, conv_out
    )


@jax.named_scope("decoder")
def decode_sparse(
    vae: VAE,
    z: Float[Array, "b t h w c"],
    cache: Cache,
    upscaled: Float[Array, "b f h_out w_out 3"],
    blocks: Blocks,
) -> tuple[Float[Array, "b f h_out w_out 3"], Cache]:
    """One latent frame (divided by the scaling factor) -> its frames, and the cache for the next.

    Active blocks hold what ``vae.decode`` gives, as far as they see each other. The others hold
    ``upscaled``, the input frames at the output's size in [-1, 1], aligned with the output.
    ``cache``: None for the first latent frame of a clip. Raises ValueError for other shapes.
    """
    b, t, h, w, _ = z.shape
    frames = TIME_FACTOR if cache is not None else 1
    expected = (1, frames, h * SPACE_FACTOR, w * SPACE_FACTOR, 3)
    if (b, t) != (1, 1) or h % 2 or w % 2:
        raise ValueError(f"a latent of {z.shape} is not one frame of one clip with even sides")
    if upscaled.shape != expected:
        raise ValueError(f"upscaled has shape {upscaled.shape}; the output has {expected}")
    y, cache = _decode_blocks(vae.decoder, z, cache, upscaled, blocks)
    y, upscaled = y.astype(jnp.float32), upscaled.astype(jnp.float32)
    if vae.config.residual_decoder:
        y = take_blocks(upscaled, blocks, PATCH_PIXELS, 0) + RESIDUAL_GAIN * y
    return put_blocks(upscaled, y, blocks), cache


def sparse_decode_step(vae: VAE) -> SparseDecodeStep:
    """``decode_sparse`` of a real or abstract module, compiled once per number of slots.

    The cache is donated: its memory becomes the next one's.
    """

    def decode(
        params: Params, z: Array, cache: Cache, upscaled: Array, blocks: Blocks
    ) -> tuple[Array, Cache]:
        return decode_sparse(bind(vae, params), z, cache, upscaled, blocks)

    return jax.jit(decode, donate_argnames="cache", compiler_options=convolution_options())


def decode_sparse_clip(
    step: SparseDecodeStep,
    params: Params,
    latents: Iterable[Array],
    upscaled: Iterable[Array | HostArray],
    plan: Iterable[Blocks],
) -> Iterator[Array]:
    """The frames of each latent frame of a clip. Frames without active blocks run as well, for
    the caches of later ones. Raises ValueError when the three differ in number."""
    cache = None
    for z, frames, blocks in zip(latents, upscaled, jax.device_put(list(plan)), strict=True):
        decoded, cache = step(params, z, cache, frames, blocks)
        yield decoded
