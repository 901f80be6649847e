"""The decoder on the blocks of a video that need it; the others are the upscaled input.

Everything up to the entry of the half-resolution level runs densely. From there on, where four
fifths of decoding lie, active blocks alone run (``tokens.blocks``, ``nn.block_sparse``), a latent
frame at a time. The parameters are those of ``models.vae.Decoder``. Invariant: with every block
active the frames are the dense decoder's.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.geometry import PATCH_PIXELS, SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import Carry
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae.block_sparse import (
    activate,
    block_conv,
    block_group_norm,
    block_resnets,
    block_upsample,
    picture_conv,
    picture_resnet,
    put_blocks,
    take_blocks,
)
from skipsr_jax.models.vae.blocks import run_in_order, space_to_depth
from skipsr_jax.models.vae.model import RESIDUAL_GAIN, VAE, Decoder
from skipsr_jax.tokens.blocks import HALF, Blocks
from skipsr_jax.types import Float, HostArray

SparseDecodeStep = Callable[[Params, Array, Carry, Array, Blocks], tuple[Array, Carry]]


class _Carry(NamedTuple):
    """What a latent frame leaves to the next: of the dense part, then of active blocks."""

    start: Carry
    low: Carry
    input_half: Carry
    entry: Carry
    half: Carry
    doubled: Carry
    full: Carry
    norm: Carry
    end: Carry


def _walk(
    decoder: Decoder,
    z: Float[Array, "1 1 v u c"],
    carry: _Carry | None,
    upscaled: Float[Array, "1 f h w 3"],
    blocks: Blocks,
) -> tuple[Float[Array, "n f s s 3"], _Carry]:
    """The decoder's output on active blocks."""
    active = activate(blocks, (HALF, PATCH_PIXELS))
    before = carry or _Carry(*(None,) * len(_Carry._fields))
    up = decoder.up_blocks
    x, start = decoder.conv_in(z, before.start)
    parts = [*decoder.mid_block.parts(), *up[0].parts(), *up[1].parts()]
    x, low = run_in_order(parts, x, before.low)
    input_half = ()
    if decoder.residual:
        features, input_half = decoder.upscaled_half(space_to_depth(upscaled), before.input_half)
        x = x + features
    x, entry = picture_resnet(up[2].resnets[0], x, before.entry, active, HALF)
    x, half = block_resnets(up[2].resnets[1:], x, before.half, active)
    x, doubled = block_upsample(up[2].upsamplers[0], x, before.doubled, active)
    if decoder.residual:
        x = x + picture_conv(decoder.upscaled_full, upscaled, None, blocks, PATCH_PIXELS)[0]
    x, full = block_resnets(up[3].resnets, x, before.full, active)
    affine, norm = block_group_norm(decoder.conv_norm_out, x, before.norm, active)
    x, end = block_conv(decoder.conv_out, x, before.end, active, affine)
    return x, _Carry(start, low, input_half, entry, half, doubled, full, norm, end)


def decode_sparse(
    vae: VAE,
    z: Float[Array, "b t v u c"],
    carry: Carry,
    upscaled: Float[Array, "b f h w 3"],
    blocks: Blocks,
) -> tuple[Float[Array, "b f h w 3"], Carry]:
    """One latent frame (divided by the scaling factor) -> its frames, and the carry for the next.

    Active blocks hold what ``vae.decode`` gives, as far as they see each other; the others hold
    ``upscaled``, the input frames at the output's size in [-1, 1], aligned with the output. Carry:
    None for the first latent frame of a clip. Raises ValueError for other shapes.
    """
    b, t, v, u, _ = z.shape
    frames = TIME_FACTOR if carry is not None else 1
    expected = (1, frames, v * SPACE_FACTOR, u * SPACE_FACTOR, 3)
    if (b, t) != (1, 1) or v % 2 or u % 2:
        raise ValueError(f"a latent of {z.shape} is not one frame of one clip with even sides")
    if upscaled.shape != expected:
        raise ValueError(f"upscaled has shape {upscaled.shape}; the output has {expected}")
    y, carry = _walk(vae.decoder, z, carry, upscaled, blocks)
    y, upscaled = y.astype(jnp.float32), upscaled.astype(jnp.float32)
    if vae.config.residual_decoder:
        y = take_blocks(upscaled, blocks, PATCH_PIXELS, 0) + RESIDUAL_GAIN * y
    return put_blocks(upscaled, y, blocks), carry


def sparse_decode_step(vae: VAE) -> SparseDecodeStep:
    """``decode_sparse`` (real or abstract module) compiled once per number of slots.

    The carry is used up: its memory becomes the next one's.
    """

    def decode(
        params: Params, z: Array, carry: Carry, upscaled: Array, blocks: Blocks
    ) -> tuple[Array, Carry]:
        return decode_sparse(bind(vae, params), z, carry, upscaled, blocks)

    return jax.jit(decode, donate_argnames="carry")


def decode_sparse_clip(
    step: SparseDecodeStep,
    params: Params,
    latents: Iterable[Array],
    upscaled: Iterable[Array | HostArray],
    plan: Iterable[Blocks],
) -> Iterator[Array]:
    """The frames of each latent frame of a clip. Frames without active blocks run as well, for
    what later ones remember. Raises ValueError when the three differ in number."""
    carry = None
    for z, frames, blocks in zip(latents, upscaled, jax.device_put(list(plan)), strict=True):
        decoded, carry = step(params, z, carry, frames, blocks)
        yield decoded
