"""The encoder on the blocks of a video that need a latent, for masks known before encoding.

The full- and half-resolution levels, three quarters of encoding, run on active blocks alone
(``tokens.blocks``, ``nn.block_sparse``), a latent frame at a time; everything from quarter
resolution on runs densely. There a block that is left out shows what it was when last active: it
is context of others, no one uses its latent for itself. The parameters are those of
``models.vae.Encoder``. Invariant: with every block active the latents are the dense encoder's.
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
    block_resnets,
    picture_conv,
    put_blocks,
)
from skipsr_jax.models.vae.blocks import run_in_order
from skipsr_jax.models.vae.model import VAE, Encoder, Posterior, posterior_of
from skipsr_jax.tokens.blocks import HALF, Blocks
from skipsr_jax.types import Float, HostArray

SPARSE_LEVELS = 2
"""Full and half resolution."""

SparseEncodeStep = Callable[[Params, Array, Carry, Blocks], tuple[Posterior, Carry]]


class _Carry(NamedTuple):
    """What a latent frame leaves to the next: of active blocks, then of the dense part."""

    start: Carry
    levels: Carry
    picture: Carry
    low: Carry
    end: Carry


def _walk(
    encoder: Encoder, frames: Float[Array, "1 f h w 3"], carry: _Carry | None, blocks: Blocks
) -> tuple[Float[Array, "1 1 v u c"], _Carry]:
    """The encoder's output."""
    active = activate(blocks, (HALF, PATCH_PIXELS))
    before = carry or _Carry(None, [(None, None)] * SPARSE_LEVELS, None, None, None)
    x, start = picture_conv(encoder.conv_in, frames, before.start, blocks, PATCH_PIXELS)
    levels = []
    for block, (resnets, halving) in zip(
        encoder.down_blocks[:SPARSE_LEVELS], before.levels, strict=True
    ):
        x, resnets = block_resnets(block.resnets, x, resnets, active)
        x, halving = block_conv(block.downsamplers[0].conv, x, halving, active)
        levels.append((resnets, halving))
    _, _, height, width, _ = frames.shape
    scale = PATCH_PIXELS // x.shape[2]
    shape = (1, x.shape[1], height // scale, width // scale, x.shape[4])
    last = jnp.zeros((), x.dtype) if before.picture is None else before.picture
    picture = put_blocks(jnp.broadcast_to(last, shape), x, blocks)
    parts = [part for block in encoder.down_blocks[SPARSE_LEVELS:] for part in block.parts()]
    x, low = run_in_order([*parts, *encoder.mid_block.parts()], picture, before.low)
    x, end = encoder.conv_out(x, before.end, encoder.conv_norm_out.affine(x))
    return x, _Carry(start, levels, picture[:, -1:], low, end)


def encode_sparse(
    vae: VAE, frames: Float[Array, "b f h w 3"], carry: Carry, blocks: Blocks
) -> tuple[Posterior, Carry]:
    """The frames of one latent frame, in [-1, 1] -> its posterior, and the carry for the next.

    Where blocks are active it is what ``vae.encode`` gives, as far as they see each other. Carry:
    None for the first latent frame of a clip (one frame, else four). Raises ValueError for other
    shapes.
    """
    b, f, h, w, _ = frames.shape
    expected = 1 if carry is None else TIME_FACTOR
    if (b, f) != (1, expected) or h % (2 * SPACE_FACTOR) or w % (2 * SPACE_FACTOR):
        raise ValueError(
            f"frames have shape {frames.shape}; needed are one clip, {expected} frames, and sides "
            f"that are multiples of {2 * SPACE_FACTOR}"
        )
    moments, carry = _walk(vae.encoder, frames, carry, blocks)
    return posterior_of(moments), carry


def sparse_encode_step(vae: VAE) -> SparseEncodeStep:
    """``encode_sparse`` (real or abstract module) compiled once per number of slots.

    The carry is used up: its memory becomes the next one's.
    """

    def encode(
        params: Params, frames: Array, carry: Carry, blocks: Blocks
    ) -> tuple[Posterior, Carry]:
        return encode_sparse(bind(vae, params), frames, carry, blocks)

    return jax.jit(encode, donate_argnames="carry")


def encode_sparse_clip(
    step: SparseEncodeStep,
    params: Params,
    slices: Iterable[Array | HostArray],
    plan: Iterable[Blocks],
) -> Iterator[Posterior]:
    """The posterior of each latent frame of a clip. Raises ValueError when the two differ in
    number."""
    carry = None
    for frames, blocks in zip(slices, jax.device_put(list(plan)), strict=True):
        posterior, carry = step(params, frames, carry, blocks)
        yield posterior
