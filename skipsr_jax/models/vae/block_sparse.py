"""Causal convolutions and group norms on the active blocks of a video, the rest left out.

Blocks of one size lie one after the other in slots, (n, f, h, w, c); ``Active`` says which they
are. A convolution extends each block by a border of one pixel from its neighbours and runs over the
slots as over a batch. The edge of what is active is to it what the edge of the picture is to the
dense convolution: beyond it the border is zero. (That came nearer to the dense decoder than
repeating the block's edge: docs/performance.md.)

What a layer remembers in time lies in a table of all blocks, border included: one that was left out
for a while continues from what it was when last active. So the first latent frame of a clip must
hold all blocks in order. Invariant: with every block active the result is the dense one.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.blocks import join_blocks
from skipsr_jax.kernels.norm_silu_concat.blocks.xla import Border, border_of, put, with_border
from skipsr_jax.kernels.norm_silu_concat.frames import last_frames
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine, activated
from skipsr_jax.models.layers.causal_conv import Carry, CausalConv3d, conv3d, with_past
from skipsr_jax.models.vae.blocks import Resnet, run_in_order
from skipsr_jax.models.vae.group_norm import GroupNorm, channel_sums, moments_of
from skipsr_jax.models.vae.upsample import Kernel, Upsample, add_inner, unfold
from skipsr_jax.tokens.blocks import MISSING, Blocks
from skipsr_jax.types import Float

_VALID = ((0, 0), (0, 0))


class Active(NamedTuple):
    """The active blocks, and what each size of block needs to know of them."""

    blocks: Blocks
    borders: dict[int, Border]


def activate(blocks: Blocks, sizes: Sequence[int]) -> Active:
    """``blocks`` for layers on blocks of ``sizes`` pixels along a side.

    The indices are computed here once: else every layer would, for each of its numbers.
    """
    blocks = jax.tree.map(jnp.asarray, blocks)
    borders = {size: border_of(blocks.neighbours, size) for size in sizes}
    return Active(blocks, jax.lax.optimization_barrier(borders))


def take_blocks(
    picture: Float[Array, "1 f h w c"], blocks: Blocks, size: int, border: int
) -> Float[Array, "n f v u c"]:
    """Blocks of ``size`` pixels cut out of a dense picture with a border, zero beyond the picture.

    v = u = size + 2 border. Slots of padding hold copies of the last block.
    """
    _, f, h, w, c = picture.shape
    place = jnp.minimum(blocks.block_index, (h // size) * (w // size) - 1)
    around = jnp.arange(-border, size + border)
    row = (place // (w // size) * size)[:, None] + around  # n v
    column = (place % (w // size) * size)[:, None] + around
    inside = ((row >= 0) & (row < h))[:, :, None] & ((column >= 0) & (column < w))[:, None, :]
    pixel = jnp.where(inside, row[:, :, None] * w + column[:, None, :], -1)
    pixel = jax.lax.optimization_barrier(pixel)[:, None]  # n 1 v u
    frame = jnp.arange(f, dtype=jnp.int32)[:, None, None]
    index = frame * (h * w) + jnp.maximum(pixel, 0)
    cut = picture.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where((pixel < 0)[..., None], 0, cut)


def put_blocks(
    picture: Float[Array, "1 f h w c"], x: Float[Array, "n f s s c"], blocks: Blocks
) -> Float[Array, "1 f h w c"]:
    """The dense picture with its active blocks replaced. Slots of padding go nowhere."""
    _, f, h, w, c = picture.shape
    size = x.shape[2]
    rows, columns = h // size, w // size
    tiles = picture.reshape(f, rows, size, columns, size, c).transpose(1, 3, 0, 2, 4, 5)
    tiles = tiles.reshape(rows * columns, f, size, size, c)
    tiles = put(tiles, blocks.block_index, x.astype(picture.dtype))
    tiles = tiles.reshape(rows, columns, f, size, size, c).transpose(2, 0, 3, 1, 4, 5)
    return tiles.reshape(picture.shape)


def _joined(
    x: Float[Array, "n f h w c"],
    affine: Affine | None,
    table: Carry,
    active: Active,
    taps: int,
    steps: int = 1,
) -> tuple[Float[Array, "n g v u c"], Float[Array, "m k v u c"]]:
    """x with borders behind the frames before it, and the table of the last taps - steps frames of
    all blocks. ``affine``: x goes through it and a silu. Without a table x starts a clip."""
    blocks, border = active.blocks, active.borders[x.shape[2]]
    if table is not None:
        return join_blocks(x, affine, table, blocks.block_index, blocks.neighbours, border)
    x = with_past(with_border(activated(x, affine), border), None, taps - 1)
    x = jax.lax.optimization_barrier(x)  # what is remembered is not computed again
    return x, last_frames(x, taps - steps)


def _run(conv: CausalConv3d, bordered: Array) -> Array:
    """The convolution on blocks that have their border and their past."""
    (top, bottom), (left, right) = conv.padding
    v, u = bordered.shape[2:4]
    inner = bordered[:, :, 1 - top : v - 1 + bottom, 1 - left : u - 1 + right]
    kernel = conv.kernel[...].astype(conv.dtype)
    return conv3d(inner, kernel, conv.strides, _VALID) + conv.bias[...].astype(conv.dtype)


def block_conv(
    conv: CausalConv3d,
    x: Float[Array, "n f h w i"],
    table: Carry,
    active: Active,
    affine: Affine | None = None,
) -> tuple[Float[Array, "n g v u o"], Carry]:
    """The layer ``conv`` on active blocks, and its table of what they leave to later frames.

    ``affine``: x goes through it and a silu first; for layers of three taps in time.
    """
    if conv.kernel.shape[:3] == (1, 1, 1):
        return conv(x)[0], ()
    taps, steps = conv.kernel.shape[0], conv.strides[0]
    x = x.astype(conv.dtype)
    if taps == 1:
        return _run(conv, with_border(x, active.borders[x.shape[2]])), ()
    x, table = _joined(x, affine, table, active, taps, steps)
    return _run(conv, x), table


def picture_conv(
    conv: CausalConv3d,
    picture: Float[Array, "1 f h w i"],
    carry: Carry,
    blocks: Blocks,
    size: int,
) -> tuple[Float[Array, "n f s s o"], Carry]:
    """The layer ``conv`` on active blocks of a dense picture: exact, borders and past included.

    The carry is dense, as that of ``conv`` itself. For layers without strides.
    """
    picture = picture.astype(conv.dtype)
    taps = conv.kernel.shape[0]
    if taps > 1:
        picture = jax.lax.optimization_barrier(with_past(picture, carry, taps - 1))
    y = _run(conv, take_blocks(picture, blocks, size, 1))
    return y, last_frames(picture, taps - 1) if taps > 1 else ()


def block_group_norm(
    norm: GroupNorm, x: Float[Array, "n f h w c"], memory: Carry, active: Active
) -> tuple[Affine, Carry]:
    """The layer ``norm`` on active blocks, as what it makes of each channel in each frame.

    The statistics of a frame are over all blocks: of active ones as they are, of the others as they
    were when last active. That is the memory, (blocks, 2, g); None: x holds all blocks in order.
    """
    width = x.shape[-1] // norm.groups
    # The barrier keeps the pass over the pixels out of the scatter, which would make it in one
    # thread for each of its numbers.
    sums = jax.lax.optimization_barrier(channel_sums(x))
    statistics = moments_of(sums, norm.groups)
    found = jnp.stack([part[:, :, 0, 0, ::width] for part in statistics], axis=2)
    if memory is not None:
        of_all = jnp.broadcast_to(memory[:, None], (len(memory), *found.shape[1:]))
        found = put(of_all, active.blocks.block_index, found)
    means, variances = found[:, :, 0], found[:, :, 1]  # blocks f g
    mean = means.mean(axis=0)
    variance = (variances + jnp.square(means - mean)).mean(axis=0)
    mean, variance = (jnp.repeat(v, width, axis=-1) for v in (mean, variance))
    return norm.affine_by(mean, variance), found[:, -1]


def _second_half(
    resnet: Resnet, x: Array, y: Array, norm2: Carry, conv2: Carry, active: Active
) -> tuple[Array, Carry, Carry]:
    """From the first convolution's result ``y`` on; x: the layer's input on active blocks."""
    affine, norm2 = block_group_norm(resnet.norm2, y, norm2, active)
    y, conv2 = block_conv(resnet.conv2, y, conv2, active, affine)
    if resnet.conv_shortcut is not None:
        x, _ = resnet.conv_shortcut(x)
    return x + y, norm2, conv2


def block_resnet(
    resnet: Resnet, x: Float[Array, "n f h w i"], carry: Carry, active: Active
) -> tuple[Float[Array, "n f h w o"], Carry]:
    """The layer ``resnet`` on active blocks."""
    norm1, conv1, norm2, conv2 = (None,) * 4 if carry is None else carry
    affine, norm1 = block_group_norm(resnet.norm1, x, norm1, active)
    y, conv1 = block_conv(resnet.conv1, x, conv1, active, affine)
    y, norm2, conv2 = _second_half(resnet, x, y, norm2, conv2, active)
    return y, (norm1, conv1, norm2, conv2)


def block_resnets(
    resnets: Sequence[Resnet], x: Float[Array, "n f h w i"], carry: Carry, active: Active
) -> tuple[Float[Array, "n f h w o"], Carry]:
    """Resnets on active blocks, one after the other."""
    parts = [functools.partial(block_resnet, resnet, active=active) for resnet in resnets]
    return run_in_order(parts, x, carry)


def picture_resnet(
    resnet: Resnet, picture: Float[Array, "1 f h w i"], carry: Carry, active: Active, size: int
) -> tuple[Float[Array, "n f s s o"], Carry]:
    """The layer ``resnet`` on active blocks of a dense picture: exact up to its second half."""
    conv1, norm2, conv2 = (None,) * 3 if carry is None else carry
    y = activated(picture, resnet.norm1.affine(picture))
    y, conv1 = picture_conv(resnet.conv1, y, conv1, active.blocks, size)
    x = take_blocks(picture, active.blocks, size, 0)
    y, norm2, conv2 = _second_half(resnet, x, y, norm2, conv2, active)
    return y, (conv1, norm2, conv2)


def _with_constants(y: Array, kernel: Kernel, bias: Float[Array, " o"], active: Active) -> Array:
    """Adds the bias and what the pointwise bias sends to each place of each block (n f v u q), less
    where no neighbour is."""
    y, table = add_inner(y, kernel.ones, bias)
    last = y.shape[2] - 1
    place = jnp.arange(last + 1)

    def kind(before: int, behind: int) -> Array:
        around = active.blocks.neighbours
        is_first = (around[:, before] == MISSING)[:, None] & (place == 0)
        is_last = (around[:, behind] == MISSING)[:, None] & (place == last)
        return jnp.where(is_first, 0, jnp.where(is_last, 2, 1))

    return y + table[kind(1, 7)[:, :, None], kind(3, 5)[:, None, :]][:, None]


def block_upsample(
    upsample: Upsample, x: Float[Array, "n f h w c"], carry: Carry, active: Active
) -> tuple[Float[Array, "n f v u c"], Carry]:
    """The layer ``upsample``, which must not double frames, on active blocks: v = 2 h, u = 2 w."""
    kernel = upsample.kernel()
    x = x.astype(upsample.conv.dtype)
    seen, carry = _joined(x, None, carry, active, kernel.weights.shape[0])
    y = conv3d(seen, kernel.weights, padding=_VALID)
    bias = upsample.conv.bias[...].astype(jnp.float32)
    return unfold(_with_constants(y, kernel, bias, active), 1), carry
