"""The autoencoder's layers on the active blocks of a video, with the other blocks left out.

Blocks of one size lie one after the other in slots, (slots, f, size, size, c); ``Active`` says
which ones they are. A convolution adds a halo of one pixel to each block from its neighbours and
runs over the slots as over a batch. Beyond the edge of the active blocks the halo is zero, as it is
beyond the edge of the frame for the dense convolution. (That came nearer to the dense decoder than
repeating the block's edge: docs/performance.md.)

The causal-conv caches hold all blocks of a frame, halos included: a block that was left out for a
while continues from what it was when last active. So the first latent frame of a clip must hold all
blocks in order. Invariant: with every block active the result is the dense one.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat import (
    ScaleShift,
    frames_to_cache,
    norm_silu_concat_blocks,
    scale_shift_silu,
)
from skipsr_jax.kernels.norm_silu_concat.blocks.xla import (
    HaloIndex,
    add_halo,
    halo_index,
    scatter_slots,
)
from skipsr_jax.models.layers.causal_conv import AnyCausalConv, Cache, conv3d, with_cached_frames
from skipsr_jax.models.vae.blocks import Resnet, Sublayer, run_in_order
from skipsr_jax.models.vae.group_norm import GroupNorm, channel_sums, moments_of
from skipsr_jax.models.vae.upsample import Upsample
from skipsr_jax.models.vae.upsample_kernel import (
    MergedKernel,
    add_inner_constants,
    positions_to_pixels,
)
from skipsr_jax.tokens.blocks import MISSING, Blocks
from skipsr_jax.types import DType, Float

_VALID = ((0, 0), (0, 0))


class Active(NamedTuple):
    """The active blocks, and the index of the halo for each size of block in pixels."""

    blocks: Blocks
    halos: dict[int, HaloIndex]


def activate(blocks: Blocks, sizes: Sequence[int]) -> Active:
    """``blocks`` for layers on blocks of ``sizes`` pixels along a side.

    The indices are computed here once. Otherwise every layer would compute them for each number.
    """
    blocks = jax.tree.map(jnp.asarray, blocks)
    halos = {size: halo_index(blocks.neighbours, size) for size in sizes}
    return Active(blocks, jax.lax.optimization_barrier(halos))


def take_blocks(
    frames: Float[Array, "1 f h w c"], blocks: Blocks, size: int, halo: int
) -> Float[Array, "slots f side side c"]:
    """Blocks of ``size`` pixels of dense frames, with a halo that is zero beyond the frames.

    side = size + 2 halo. Slots of padding hold copies of the last block.
    """
    _, f, h, w, c = frames.shape
    block = jnp.minimum(blocks.block_index, (h // size) * (w // size) - 1)
    around = jnp.arange(-halo, size + halo)
    row = (block // (w // size) * size)[:, None] + around  # slots side
    column = (block % (w // size) * size)[:, None] + around
    inside = ((row >= 0) & (row < h))[:, :, None] & ((column >= 0) & (column < w))[:, None, :]
    pixel = jnp.where(inside, row[:, :, None] * w + column[:, None, :], -1)
    pixel = jax.lax.optimization_barrier(pixel)[:, None]  # slots 1 side side
    frame = jnp.arange(f, dtype=jnp.int32)[:, None, None]
    index = frame * (h * w) + jnp.maximum(pixel, 0)
    taken = frames.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where((pixel < 0)[..., None], 0, taken)


def put_blocks(
    frames: Float[Array, "1 f h w c"], x: Float[Array, "slots f size size c"], blocks: Blocks
) -> Float[Array, "1 f h w c"]:
    """The dense frames with their active blocks replaced. Slots of padding are dropped."""
    _, f, h, w, c = frames.shape
    size = x.shape[2]
    rows, columns = h // size, w // size
    dense = frames.reshape(f, rows, size, columns, size, c).transpose(1, 3, 0, 2, 4, 5)
    dense = dense.reshape(rows * columns, f, size, size, c)
    dense = scatter_slots(dense, blocks.block_index, x.astype(frames.dtype))
    dense = dense.reshape(rows, columns, f, size, size, c).transpose(2, 0, 3, 1, 4, 5)
    return dense.reshape(frames.shape)


def _norm_silu_concat(
    x: Float[Array, "slots f size size c"],
    scale_shift: ScaleShift | None,
    cache: Cache,
    active: Active,
    taps: int,
    step: int = 1,
    dtype: DType | None = None,
) -> tuple[Float[Array, "slots f_out side side c"], Float[Array, "blocks cached side side c"]]:
    """x with halos behind the frames before it, and the cache of the last taps - step frames of
    all blocks. ``scale_shift``: applied to x, and then SiLU. Without a cache x starts a clip.
    ``dtype``: of both results, by default x's."""
    blocks, halo = active.blocks, active.halos[x.shape[2]]
    with jax.named_scope("norm_silu_concat"):
        if cache is not None:
            return norm_silu_concat_blocks(
                x, scale_shift, cache, blocks.block_index, blocks.neighbours, halo
            )
        x = add_halo(scale_shift_silu(x, scale_shift, dtype), halo)
        x = with_cached_frames(x, None, taps - 1)
        x = jax.lax.optimization_barrier(x)  # so that the cache is copied and not computed again
        return x, frames_to_cache(x, taps - step)


def _conv_with_halo(conv: AnyCausalConv, x: Float[Array, "slots f side side i"]) -> Array:
    """The convolution on blocks that have their halo and their cached frames."""
    (top, bottom), (left, right) = conv.padding
    height, width = x.shape[2:4]
    inner = x[:, :, 1 - top : height - 1 + bottom, 1 - left : width - 1 + right]
    return conv.convolve(inner, _VALID)


def block_conv(
    conv: AnyCausalConv,
    x: Float[Array, "slots f size size i"],
    cache: Cache,
    active: Active,
    scale_shift: ScaleShift | None = None,
) -> tuple[Float[Array, "slots f_out size_out size_out o"], Cache]:
    """The layer ``conv`` on active blocks, and its cache of all blocks.

    ``scale_shift``: applied to x first, and then SiLU; for layers of three taps in time.
    """
    if conv.kernel_size == (1, 1, 1):
        return conv(x)[0], ()
    taps, step = conv.kernel_size[0], conv.strides[0]
    x = x.astype(conv.dtype)
    if taps == 1:
        return _conv_with_halo(conv, add_halo(x, active.halos[x.shape[2]])), ()
    x, cache = _norm_silu_concat(x, scale_shift, cache, active, taps, step, conv.input_dtype)
    return _conv_with_halo(conv, x), cache


def dense_to_block_conv(
    conv: AnyCausalConv,
    frames: Float[Array, "1 f h w i"],
    cache: Cache,
    blocks: Blocks,
    size: int,
) -> tuple[Float[Array, "slots f size size o"], Cache]:
    """The layer ``conv`` on active blocks of dense frames: exact, halos and cache included.

    The cache is dense, as that of ``conv`` itself. For layers without strides.
    """
    frames, taps = frames.astype(conv.input_dtype), conv.kernel_size[0]
    if taps > 1:
        frames = jax.lax.optimization_barrier(with_cached_frames(frames, cache, taps - 1))
    y = _conv_with_halo(conv, take_blocks(frames, blocks, size, 1))
    return y, frames_to_cache(frames, taps - 1) if taps > 1 else ()


def block_group_norm(
    norm: GroupNorm, x: Float[Array, "slots f size size c"], cache: Cache, active: Active
) -> tuple[ScaleShift, Cache]:
    """The layer ``norm`` on active blocks, as a scale and shift of each channel in each frame.

    The statistics of a frame are over all blocks: active ones as they are, the others as they were
    when last active. The latter are the cache, (blocks, 2, groups); None: x holds all blocks in
    order.
    """
    width = x.shape[-1] // norm.groups
    # The barrier keeps the pass over the pixels out of the scatter, which would make it in one
    # thread for each of its numbers.
    sums = jax.lax.optimization_barrier(channel_sums(x))
    statistics = moments_of(sums, norm.groups)
    by_block = jnp.stack([part[:, :, 0, 0, ::width] for part in statistics], axis=2)
    if cache is not None:
        of_all = jnp.broadcast_to(cache[:, None], (len(cache), *by_block.shape[1:]))
        by_block = scatter_slots(of_all, active.blocks.block_index, by_block)
    means, variances = by_block[:, :, 0], by_block[:, :, 1]  # blocks f groups
    mean = means.mean(axis=0)
    variance = (variances + jnp.square(means - mean)).mean(axis=0)
    mean, variance = (jnp.repeat(v, width, axis=-1) for v in (mean, variance))
    return norm.scale_shift_from(mean, variance), by_block[:, -1]


class _ResnetCache(NamedTuple):
    norm1: Cache = None
    conv1: Cache = None
    norm2: Cache = None
    conv2: Cache = None


def _second_half(
    resnet: Resnet, x: Array, y: Array, norm2: Cache, conv2: Cache, active: Active
) -> tuple[Array, Cache, Cache]:
    """From the first convolution's result ``y`` on; x: the layer's input on active blocks."""
    with jax.named_scope("norm2"):
        scale_shift, norm2 = block_group_norm(resnet.norm2, y, norm2, active)
    with jax.named_scope("conv2"):
        y, conv2 = block_conv(resnet.conv2, y, conv2, active, scale_shift)
    if resnet.conv_shortcut is not None:
        with jax.named_scope("conv_shortcut"):
            x, _ = resnet.conv_shortcut(x)
    return x + y, norm2, conv2


def block_resnet(
    resnet: Resnet, x: Float[Array, "slots f size size i"], cache: Cache, active: Active
) -> tuple[Float[Array, "slots f size size o"], Cache]:
    """The layer ``resnet`` on active blocks."""
    cache = _ResnetCache() if cache is None else cache
    with jax.named_scope("norm1"):
        scale_shift, norm1 = block_group_norm(resnet.norm1, x, cache.norm1, active)
    with jax.named_scope("conv1"):
        y, conv1 = block_conv(resnet.conv1, x, cache.conv1, active, scale_shift)
    y, norm2, conv2 = _second_half(resnet, x, y, cache.norm2, cache.conv2, active)
    return y, _ResnetCache(norm1, conv1, norm2, conv2)


def block_resnets(
    resnets: Sequence[Resnet],
    x: Float[Array, "slots f size size i"],
    cache: Cache,
    active: Active,
    scopes: Sequence[str],
) -> tuple[Float[Array, "slots f size size o"], Cache]:
    """Resnets on active blocks, one after the other. ``scopes``: their names in profiles."""
    sublayers = [
        Sublayer(scope, functools.partial(block_resnet, resnet, active=active))
        for scope, resnet in zip(scopes, resnets, strict=True)
    ]
    return run_in_order(sublayers, x, cache)


def dense_to_block_resnet(
    resnet: Resnet, frames: Float[Array, "1 f h w i"], cache: Cache, active: Active, size: int
) -> tuple[Float[Array, "slots f size size o"], Cache]:
    """The layer ``resnet`` on active blocks of dense frames: exact up to its second half.

    ``norm1`` of the cache is not used: the first norm sees whole frames.
    """
    cache = _ResnetCache() if cache is None else cache
    with jax.named_scope("norm1"):
        scale_shift = resnet.norm1.scale_shift(frames)
        y = scale_shift_silu(frames, scale_shift, resnet.conv1.input_dtype)
    with jax.named_scope("conv1"):
        y, conv1 = dense_to_block_conv(resnet.conv1, y, cache.conv1, active.blocks, size)
    x = take_blocks(frames, active.blocks, size, 0)
    y, norm2, conv2 = _second_half(resnet, x, y, cache.norm2, cache.conv2, active)
    return y, _ResnetCache((), conv1, norm2, conv2)


def _add_constants(
    y: Float[Array, "slots f h w new"],
    kernel: MergedKernel,
    bias: Float[Array, " o"],
    active: Active,
) -> Float[Array, "slots f h w new"]:
    """Adds the bias and the contribution of the pointwise bias to each position of each
    block, which is less where a block has no neighbour."""
    y, constants = add_inner_constants(y, kernel.ones, bias)
    last = y.shape[2] - 1
    position = jnp.arange(last + 1)

    def kind(before: int, behind: int) -> Array:
        around = active.blocks.neighbours
        is_first = (around[:, before] == MISSING)[:, None] & (position == 0)
        is_last = (around[:, behind] == MISSING)[:, None] & (position == last)
        return jnp.where(is_first, 0, jnp.where(is_last, 2, 1))

    return y + constants[kind(1, 7)[:, :, None], kind(3, 5)[:, None, :]][:, None]


def block_upsample(
    upsample: Upsample, x: Float[Array, "slots f size size c"], cache: Cache, active: Active
) -> tuple[Float[Array, "slots f size_out size_out c"], Cache]:
    """The layer ``upsample`` on active blocks: size_out = 2 size. It must not double frames."""
    kernel = upsample.kernel()
    x = x.astype(upsample.conv.dtype)
    y, cache = _norm_silu_concat(x, None, cache, active, kernel.weights.shape[0])
    y = conv3d(y, kernel.weights, padding=_VALID)
    bias = upsample.conv.bias[...].astype(jnp.float32)
    return positions_to_pixels(_add_constants(y, kernel, bias, active), 1), cache
