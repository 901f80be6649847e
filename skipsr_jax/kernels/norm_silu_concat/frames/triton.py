"""Norm, SiLU and concatenation of frames in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program takes some pixels of a clip through all frames. It has read what the cache holds of them
before it writes there, and no other program touches them, so the cache is changed in place.
``interpret`` runs the kernel without a GPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.norm_silu_concat.frames.xla import EndPadding, FramesProblem
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
from skipsr_jax.types import DType, Float

WARPS = 8
MOST_NUMBERS = 2**31 - 1  # offsets are int32


def supported(problem: FramesProblem, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    refused = gpu_refusal(problem.dtype, target, "it needs compute capability 8.0 (Ampere)", (8, 0))
    if refused is not None:
        return refused
    if problem.devices > 1:
        return f"the frames are shared by {problem.devices} devices"
    refused = channels_refusal(problem.channels) or result_refusal(
        problem.result_dtype, problem.dtype, target
    )
    if refused is not None:
        return refused
    if not problem.cached:
        return "it needs frames in the cache"
    frames = problem.clips * (problem.cached + problem.frames)
    numbers = frames * problem.height * problem.width * problem.channels
    if numbers > MOST_NUMBERS:
        return f"it makes at most {MOST_NUMBERS} numbers, not {numbers}"
    return None


def _kernel(x, scale_shift, cache, result, new_cache, *, problem: FramesProblem, interpret: bool):
    clip, wide = pl.program_id(2), min(problem.channels, CHANNELS)
    height = problem.height - problem.end_padding[0]
    width = problem.width - problem.end_padding[1]
    area, padded_area = height * width, problem.height * problem.width
    padded = pl.program_id(0) * PIXELS + jnp.arange(PIXELS)
    channel = pl.program_id(1) * wide + jnp.arange(wide)
    columns = jnp.broadcast_to(channel, (PIXELS, wide))

    def across(pixels):
        return jnp.broadcast_to(pixels[:, None], (PIXELS, wide))

    def at(ref, count, k, pixel, size):
        return ref.at[across((clip * count + k) * size + pixel), columns]

    real = None if padded_area % PIXELS == 0 else across(padded < padded_area)
    pixel, inside = padded, real
    if problem.end_padding != (0, 0):
        along = jnp.full_like(padded, problem.width)
        row, column = lax.div(padded, along), lax.rem(padded, along)
        pixel, inside = row * width + column, across((row < height) & (column < width))

    # All loads first, so that they overlap, and nothing is read that was written here.
    other = None if inside is None else 0.0

    def load(ref, count):
        refs = (at(ref, count, k, pixel, area) for k in range(count))
        return [plgpu.load(ref, mask=inside, other=other) for ref in refs]

    frames, new = load(cache, problem.cached), load(x, problem.frames)
    if not interpret:
        plgpu.debug_barrier()
    for k, value in enumerate(new):
        if scale_shift is not None:
            line = jnp.full_like(channel, clip * problem.frames + k)
            y = load_scale_shift_silu(value, scale_shift, line, channel)
            value = y if inside is None else jnp.where(inside, y, 0)
        frames.append(in_dtype(value, problem.result_dtype))
    for k, value in enumerate(frames):
        plgpu.store(at(result, len(frames), k, padded, padded_area), value, mask=real)
    for k, value in enumerate(frames[-problem.cached :]):
        plgpu.store(at(new_cache, problem.cached, k, pixel, area), value, mask=inside)


def norm_silu_concat(
    x: Float[Array, "b f h w c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "b cached h w c"],
    end_padding: EndPadding = (0, 0),
    dtype: DType | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b f_out h_out w_out c"], Float[Array, "b cached h w c"]]:
    """See ``api.norm_silu_concat_frames``."""
    b, f, h, w, c = x.shape
    height, width, cached = h + end_padding[0], w + end_padding[1], cache.shape[1]
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    problem = FramesProblem(b, f, height, width, end_padding, c, cached, x.dtype, 1, dtype)
    rows = None
    if scale_shift is not None:
        rows = ScaleShift(*(part.reshape(b * f, c) for part in scale_shift))
    flat = x.reshape(-1, c), rows, in_dtype(cache, dtype).reshape(-1, c)
    result, new_cache = pl.pallas_call(
        functools.partial(_kernel, problem=problem, interpret=interpret),
        out_shape=[
            jax.ShapeDtypeStruct((b * (cached + f) * height * width, c), dtype),
            jax.ShapeDtypeStruct(flat[2].shape, dtype),
        ],
        grid=(-(-height * width // PIXELS), c // min(c, CHANNELS), b),
        input_output_aliases={len(jax.tree.leaves(flat)) - 1: 1},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="norm_silu_concat_frames",
    )(*flat)
    return result.reshape(b, cached + f, height, width, c), new_cache.reshape(cache.shape)
