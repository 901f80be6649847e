"""Joining blocks with borders and past in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program goes over some pixels of one slot, borders included, through all its frames: it reads what
the table holds of them before it writes there, and nobody else touches them. So the table is
changed in place. ``interpret`` runs the kernel without a GPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.kernels.norm_silu_concat.blocks.problem import Join
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.norm_silu_concat.triton_channels import CHANNELS, channels_refusal, mapped
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

PIXELS = 16  # of a program
WARPS = 4


def supported(join: Join, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    refused = gpu_refusal(join.dtype, target, "it needs compute capability 8.0 (Ampere)", (8, 0))
    if refused is not None:
        return refused
    refused = channels_refusal(join.channels)
    if refused is not None:
        return refused
    if not 0 < join.past <= join.frames:
        return f"it takes 1 to {join.frames} frames of past, not {join.past}"
    return None


def _source(pixel, side, size, neighbours, slot):
    """Of each pixel of a bordered block: the slot that holds it (-1: none), its place there."""
    along = jnp.full_like(pixel, side)
    row, column = lax.div(pixel, along) - 1, lax.rem(pixel, along) - 1
    third = [(at >= 0).astype(jnp.int32) + (at >= size) for at in (row, column)]
    real = pixel < side * side
    around = jnp.where(real, slot * 9 + 3 * third[0] + third[1], 0)
    source = jnp.where(real, plgpu.load(neighbours.at[around]), -1)
    row, column = (at - size * (t - 1) for at, t in zip((row, column), third, strict=True))
    return source, row * size + column


def _kernel(
    x, affine, given, place, neighbours, joined, table, *, join: Join, blocks: int, interpret: bool
):
    slot, wide = pl.program_id(0), min(join.channels, CHANNELS)
    side, frames, past = join.size + 2, join.frames, join.past
    pixel = pl.program_id(1) * PIXELS + jnp.arange(PIXELS)
    channel = pl.program_id(2) * wide + jnp.arange(wide)
    source, inside = _source(pixel, side, join.size, neighbours, slot)
    to = place[slot]
    columns = jnp.broadcast_to(channel, (PIXELS, wide))

    def rows(ref, row):
        return ref.at[jnp.broadcast_to(row[:, None], (PIXELS, wide)), columns]

    real = jnp.broadcast_to((pixel < side * side)[:, None], (PIXELS, wide))
    known, seen = real & (to < blocks), real & (source >= 0)[:, None]
    for k in range(past):
        at = (to * past + k) * (side * side) + pixel
        before = plgpu.load(rows(given, at), mask=known, other=0.0)
        at = (slot * (past + frames) + k) * (side * side) + pixel
        plgpu.store(rows(joined, at), before, mask=real)
    if not interpret:
        plgpu.debug_barrier()  # all has been read of what is written below
    for k in range(frames):
        at = (jnp.maximum(source, 0) * frames + k) * join.size**2 + inside
        value = plgpu.load(rows(x, at), mask=seen, other=0.0)
        if affine is not None:
            line = jnp.full_like(channel, k)
            y = mapped(value, affine, line, channel)
            value = jnp.where(seen, y, 0).astype(join.dtype)
        at = (slot * (past + frames) + past + k) * (side * side) + pixel
        plgpu.store(rows(joined, at), value, mask=real)
        if k >= frames - past:
            at = (to * past + k - (frames - past)) * (side * side) + pixel
            plgpu.store(rows(table, at), value, mask=known)


def join_blocks(
    x: Float[Array, "n f s s c"],
    affine: Affine | None,
    table: Float[Array, "m k v v c"],
    place: Int[Array, " n"],
    neighbours: Int[Array, "n 9"],
    interpret: bool = False,
) -> tuple[Float[Array, "n g v v c"], Float[Array, "m k v v c"]]:
    """See ``api.join_blocks``."""
    blocks, past, side, _, c = table.shape
    n, frames, size = x.shape[:3]
    join = Join(n, frames, size, c, past, x.dtype)
    wide = min(c, CHANNELS)
    flat = x.reshape(-1, c), affine, table.reshape(-1, c), place, neighbours.reshape(-1)
    number = len(jax.tree.leaves(flat[:2]))
    joined, after = pl.pallas_call(
        functools.partial(_kernel, join=join, blocks=blocks, interpret=interpret),
        out_shape=[
            jax.ShapeDtypeStruct((n * (past + frames) * side * side, c), x.dtype),
            jax.ShapeDtypeStruct(flat[2].shape, table.dtype),
        ],
        grid=(n, -(-side * side // PIXELS), c // wide),
        input_output_aliases={number: 1},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
    )(*flat)
    return joined.reshape(n, past + frames, side, side, c), after.reshape(table.shape)
