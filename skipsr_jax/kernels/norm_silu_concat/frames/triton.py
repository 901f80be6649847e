"""Joining frames with their past in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program goes over some pixels of a clip through all frames: it has read what is remembered of them
before it writes there, and nobody else touches them. So the memory is changed in place.
``interpret`` runs the kernel without a GPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.kernels.norm_silu_concat.frames.problem import Ends, Join
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.norm_silu_concat.triton_channels import CHANNELS, channels_refusal, mapped
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float

PIXELS = 16  # of a program
WARPS = 8
MOST_NUMBERS = 2**31 - 1  # places are counted in int32


def supported(join: Join, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    refused = gpu_refusal(join.dtype, target, "it needs compute capability 8.0 (Ampere)", (8, 0))
    if refused is not None:
        return refused
    if join.devices > 1:
        return f"the frames are shared by {join.devices} devices"
    refused = channels_refusal(join.channels)
    if refused is not None:
        return refused
    if not join.past:
        return "it needs frames from before"
    numbers = join.clips * (join.past + join.frames) * join.height * join.width * join.channels
    if numbers > MOST_NUMBERS:
        return f"it makes at most {MOST_NUMBERS} numbers, not {numbers}"
    return None


def _kernel(x, affine, past, joined, after, *, join: Join, interpret: bool):
    clip, wide = pl.program_id(2), min(join.channels, CHANNELS)
    height, width = join.height - join.ends[0], join.width - join.ends[1]
    area, padded_area = height * width, join.height * join.width
    padded = pl.program_id(0) * PIXELS + jnp.arange(PIXELS)
    channel = pl.program_id(1) * wide + jnp.arange(wide)
    columns = jnp.broadcast_to(channel, (PIXELS, wide))

    def across(pixels):
        return jnp.broadcast_to(pixels[:, None], (PIXELS, wide))

    def place(ref, count, k, pixel, size):
        return ref.at[across((clip * count + k) * size + pixel), columns]

    real = None if padded_area % PIXELS == 0 else across(padded < padded_area)
    pixel, inside = padded, real
    if join.ends != (0, 0):
        along = jnp.full_like(padded, join.width)
        row, column = lax.div(padded, along), lax.rem(padded, along)
        pixel, inside = row * width + column, across((row < height) & (column < width))

    # All loads first: they are on their way together, and nothing is read that was written here.
    other = None if inside is None else 0.0

    def load(ref, count):
        places = (place(ref, count, k, pixel, area) for k in range(count))
        return [plgpu.load(at, mask=inside, other=other) for at in places]

    frames, new = load(past, join.past), load(x, join.frames)
    if not interpret:
        plgpu.debug_barrier()
    for k, value in enumerate(new):
        if affine is not None:
            line = jnp.full_like(channel, clip * join.frames + k)
            y = mapped(value, affine, line, channel)
            value = (y if inside is None else jnp.where(inside, y, 0)).astype(join.dtype)
        frames.append(value)
    for k, value in enumerate(frames):
        plgpu.store(place(joined, len(frames), k, padded, padded_area), value, mask=real)
    for k, value in enumerate(frames[-join.past :]):
        plgpu.store(place(after, join.past, k, pixel, area), value, mask=inside)


def join_frames(
    x: Float[Array, "b f h w c"],
    affine: Affine | None,
    past: Float[Array, "b p h w c"],
    ends: Ends = (0, 0),
    interpret: bool = False,
) -> tuple[Float[Array, "b g v u c"], Float[Array, "b p h w c"]]:
    """See ``api.join_frames``."""
    b, f, h, w, c = x.shape
    v, u, p = h + ends[0], w + ends[1], past.shape[1]
    join = Join(b, f, v, u, ends, c, p, x.dtype, 1)
    lines = None if affine is None else Affine(*(part.reshape(b * f, c) for part in affine))
    flat = x.reshape(-1, c), lines, past.astype(x.dtype).reshape(-1, c)
    joined, after = pl.pallas_call(
        functools.partial(_kernel, join=join, interpret=interpret),
        out_shape=[
            jax.ShapeDtypeStruct((b * (p + f) * v * u, c), x.dtype),
            jax.ShapeDtypeStruct(flat[2].shape, x.dtype),
        ],
        grid=(-(-v * u // PIXELS), c // min(c, CHANNELS), b),
        input_output_aliases={len(jax.tree.leaves(flat)) - 1: 1},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
    )(*flat)
    return joined.reshape(b, p + f, v, u, c), after.reshape(past.shape)
