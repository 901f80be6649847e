"""Norm, SiLU and concatenation of active blocks in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program takes some pixels of one slot, halo included, through all its frames. It reads what the
cache holds of them before it writes there, and no other program touches them, so the cache is
changed in place. ``interpret`` runs the kernel without a GPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.norm_silu_concat.blocks.xla import BlocksProblem, HaloIndex
from skipsr_jax.kernels.norm_silu_concat.scale_shift import ScaleShift, in_dtype
from skipsr_jax.kernels.norm_silu_concat.triton_parts import (
    CHANNELS,
    PIXELS,
    channels_refusal,
    load_scale_shift_silu,
    result_refusal,
)
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

WARPS = 4


def supported(problem: BlocksProblem, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    refused = gpu_refusal(problem.dtype, target, "it needs compute capability 8.0 (Ampere)", (8, 0))
    if refused is not None:
        return refused
    refused = channels_refusal(problem.channels) or result_refusal(
        problem.result_dtype, problem.dtype, target
    )
    if refused is not None:
        return refused
    if not 0 < problem.cached <= problem.frames:
        return f"it takes 1 to {problem.frames} cached frames, not {problem.cached}"
    return None


def _source(pixel, side, size, neighbours, slot):
    """For each pixel of a block with its halo: the slot that holds it (-1: none), and where."""
    along = jnp.full_like(pixel, side)
    row, column = lax.div(pixel, along) - 1, lax.rem(pixel, along) - 1
    third = [(at >= 0).astype(jnp.int32) + (at >= size) for at in (row, column)]
    real = pixel < side * side
    around = jnp.where(real, slot * 9 + 3 * third[0] + third[1], 0)
    source = jnp.where(real, plgpu.load(neighbours.at[around]), -1)
    row, column = (at - size * (t - 1) for at, t in zip((row, column), third, strict=True))
    return source, row * size + column


def _kernel(
    x,
    scale_shift,
    cache,
    block_index,
    neighbours,
    result,
    new_cache,
    *,
    problem: BlocksProblem,
    blocks: int,
    interpret: bool,
):
    slot, wide = pl.program_id(0), min(problem.channels, CHANNELS)
    side, frames, cached = problem.size + 2, problem.frames, problem.cached
    pixel = pl.program_id(1) * PIXELS + jnp.arange(PIXELS)
    channel = pl.program_id(2) * wide + jnp.arange(wide)
    source, inside = _source(pixel, side, problem.size, neighbours, slot)
    block = block_index[slot]
    columns = jnp.broadcast_to(channel, (PIXELS, wide))

    def rows(ref, row):
        return ref.at[jnp.broadcast_to(row[:, None], (PIXELS, wide)), columns]

    real = jnp.broadcast_to((pixel < side * side)[:, None], (PIXELS, wide))
    in_cache, has_source = real & (block < blocks), real & (source >= 0)[:, None]
    for k in range(cached):
        at = (block * cached + k) * (side * side) + pixel
        before = plgpu.load(rows(cache, at), mask=in_cache, other=0.0)
        at = (slot * (cached + frames) + k) * (side * side) + pixel
        plgpu.store(rows(result, at), before, mask=real)
    if not interpret:
        plgpu.debug_barrier()  # all has been read of what is written below
    for k in range(frames):
        at = (jnp.maximum(source, 0) * frames + k) * problem.size**2 + inside
        value = plgpu.load(rows(x, at), mask=has_source, other=0.0)
        if scale_shift is not None:
            line = jnp.full_like(channel, k)
            y = load_scale_shift_silu(value, scale_shift, line, channel)
            value = jnp.where(has_source, y, 0)
        value = in_dtype(value, problem.result_dtype)
        at = (slot * (cached + frames) + cached + k) * (side * side) + pixel
        plgpu.store(rows(result, at), value, mask=real)
        if k >= frames - cached:
            at = (block * cached + k - (frames - cached)) * (side * side) + pixel
            plgpu.store(rows(new_cache, at), value, mask=in_cache)


def norm_silu_concat(
    x: Float[Array, "slots f size size c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "blocks cached side side c"],
    block_index: Int[Array, " slots"],
    neighbours: Int[Array, "slots 9"],
    halo: HaloIndex | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "slots f_out side side c"], Float[Array, "blocks cached side side c"]]:
    """See ``api.norm_silu_concat_blocks``. It finds the halo from ``neighbours``."""
    del halo
    blocks, cached, side, _, c = cache.shape
    slots, frames, size = x.shape[:3]
    problem = BlocksProblem(slots, frames, size, c, cached, x.dtype, cache.dtype)
    wide = min(c, CHANNELS)
    flat = x.reshape(-1, c), scale_shift, cache.reshape(-1, c), block_index, neighbours.reshape(-1)
    operands_before_cache = len(jax.tree.leaves(flat[:2]))
    result, new_cache = pl.pallas_call(
        functools.partial(_kernel, problem=problem, blocks=blocks, interpret=interpret),
        out_shape=[
            jax.ShapeDtypeStruct((slots * (cached + frames) * side * side, c), cache.dtype),
            jax.ShapeDtypeStruct(flat[2].shape, cache.dtype),
        ],
        grid=(slots, -(-side * side // PIXELS), c // wide),
        input_output_aliases={operands_before_cache: 1},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="norm_silu_concat_blocks",
    )(*flat)
    result = result.reshape(slots, cached + frames, side, side, c)
    return result, new_cache.reshape(cache.shape)
