"""The encoder on the blocks of a video that need a latent, for masks known before encoding.

The full- and half-resolution levels, three quarters of the encoder's work, run on active blocks
alone (``tokens.blocks``, ``sparse_layers``), a latent frame at a time; everything from quarter
resolution on runs densely. There a block that is left out holds what it was when last active: it is
context for others, and its own latent is not used. The parameters are those of ``encoder.Encoder``.
Invariant: with every block active the latents are the dense encoder's.
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
from skipsr_jax.models.vae.blocks import run_in_order
from skipsr_jax.models.vae.encoder import Encoder
from skipsr_jax.models.vae.model import VAE, Posterior, posterior_of
from skipsr_jax.models.vae.sparse_layers import (
    activate,
    block_conv,
    block_resnets,
    dense_to_block_conv,
    put_blocks,
)
from skipsr_jax.tokens.blocks import HALF, Blocks
from skipsr_jax.types import Float, HostArray

SPARSE_LEVELS = 2
"""Levels that run on active blocks: full and half resolution."""

SparseEncodeStep = Callable[[Params, Array, Cache, Blocks], tuple[Posterior, Cache]]


class _Cache(NamedTuple):
    """What a latent frame leaves to the next: sub-layers on active blocks, then the dense ones.

    ``levels``: of the resnets and the downsampling of each sparse level. ``quarter``: the last
    frame at quarter resolution.
    """

    conv_in: Cache = None
    levels: Cache = None
    quarter: Cache = None
    coarse: Cache = None
    conv_out: Cache = None


def _encode_blocks(
    encoder: Encoder, frames: Float[Array, "1 f h w 3"], cache: _Cache | None, blocks: Blocks
) -> tuple[Float[Array, "1 1 h_out w_out moments"], _Cache]:
    """The encoder's output, and the next cache."""
    active = activate(blocks, (HALF, PATCH_PIXELS))
    old = cache or _Cache(levels=[(None, None)] * SPARSE_LEVELS)
    with jax.named_scope("conv_in"):
        x, conv_in = dense_to_block_conv(encoder.conv_in, frames, old.conv_in, blocks, PATCH_PIXELS)
    levels = []
    sparse_levels = encoder.down_blocks[:SPARSE_LEVELS]
    for i, (block, (resnets, downsample)) in enumerate(zip(sparse_levels, old.levels, strict=True)):
        scopes = [f"down_{i}/resnet_{j}" for j in range(len(block.resnets))]
        x, resnets = block_resnets(block.resnets, x, resnets, active, scopes)
        with jax.named_scope(f"down_{i}/downsample"):
            x, downsample = block_conv(block.downsamplers[0].conv, x, downsample, active)
        levels.append((resnets, downsample))
    _, _, height, width, _ = frames.shape
    scale = PATCH_PIXELS // x.shape[2]
    shape = (1, x.shape[1], height // scale, width // scale, x.shape[4])
    last = jnp.zeros((), x.dtype) if old.quarter is None else old.quarter
    quarter = put_blocks(jnp.broadcast_to(last, shape), x, blocks)
    sublayers = [
        sublayer
        for i, block in enumerate(encoder.down_blocks[SPARSE_LEVELS:], SPARSE_LEVELS)
        for sublayer in block.sublayers(f"down_{i}")
    ]
    x, coarse = run_in_order([*sublayers, *encoder.mid_block.sublayers()], quarter, old.coarse)
    with jax.named_scope("conv_out"):
        x, conv_out = encoder.conv_out(x, old.conv_out, encoder.conv_norm_out.scale_shift(x))
    return x, _Cache(conv_in, levels, quarter[:, -1:], coarse, conv_out)


@jax.named_scope("encoder")
def encode_sparse(
    vae: VAE, frames: Float[Array, "b f h w 3"], cache: Cache, blocks: Blocks
) -> tuple[Posterior, Cache]:
    """The frames of one latent frame, in [-1, 1] -> its posterior, and the cache for the next.

    Where blocks are active it is what ``vae.encode`` gives, as far as they see each other.
    ``cache``: None for the first latent frame of a clip (one frame, else four). Raises ValueError
    for other shapes.
    """
    b, f, h, w, _ = frames.shape
    expected = 1 if cache is None else TIME_FACTOR
    if (b, f) != (1, expected) or h % (2 * SPACE_FACTOR) or w % (2 * SPACE_FACTOR):
        raise ValueError(
            f"frames have shape {frames.shape}; needed are one clip, {expected} frames, and sides "
            f"that are multiples of {2 * SPACE_FACTOR}"
        )
    moments, cache = _encode_blocks(vae.encoder, frames, cache, blocks)
    return posterior_of(moments), cache


def sparse_encode_step(vae: VAE) -> SparseEncodeStep:
    """``encode_sparse`` of a real or abstract module, compiled once per number of slots.

    The cache is donated: its memory becomes the next one's.
    """

    def encode(
        params: Params, frames: Array, cache: Cache, blocks: Blocks
    ) -> tuple[Posterior, Cache]:
        return encode_sparse(bind(vae, params), frames, cache, blocks)

    return jax.jit(encode, donate_argnames="cache", compiler_options=convolution_options())


def encode_sparse_clip(
    step: SparseEncodeStep,
    params: Params,
    slices: Iterable[Array | HostArray],
    plan: Iterable[Blocks],
) -> Iterator[Posterior]:
    """The posterior of each latent frame of a clip. Raises ValueError when the two differ in
    number."""
    cache = None
    for frames, blocks in zip(slices, jax.device_put(list(plan)), strict=True):
        posterior, cache = step(params, frames, cache, blocks)
        yield posterior
