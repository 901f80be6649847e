"""Causal convolutions and group norms on the active blocks of a video, the rest left out.

Blocks of one size lie one after the other in slots, (n, f, h, w, c); ``tokens.blocks.Blocks`` says
which they are. A convolution extends each block by a border of one pixel from its neighbours and
runs over the slots as over a batch. Beyond the picture the border is zero, as in the dense
convolution; where the neighbour is not active it repeats the block's own edge.

In time a block remembers what the dense layer does, its border included; one that was not active
one latent frame before starts as a clip does, from copies of its first frame.
Invariant: with every block active the result is the dense one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from skipsr_jax.nn.causal_conv import Carry, CausalConv3d, conv3d
from skipsr_jax.nn.group_norm import GroupNorm, Moments, moments, normalise
from skipsr_jax.nn.upsample import Kernel, Upsample, edges, unfold
from skipsr_jax.nn.vae_blocks import Resnet
from skipsr_jax.tokens.blocks import MISSING, OUTSIDE, Blocks
from skipsr_jax.types import Array, Float

_VALID = ((0, 0), (0, 0))


class Past(NamedTuple):
    """The last input frames of a convolution: of each block of its latest slots, with border."""

    frames: Float[Array, "n k v u c"]


def with_border(x: Float[Array, "n f h w c"], blocks: Blocks) -> Float[Array, "n f v u c"]:
    """Each block with one more pixel on every side: v = h + 2, u = w + 2."""
    n, f, size, _, c = x.shape
    at = jnp.arange(-1, size + 1)
    third = (at >= 0).astype(jnp.int32) + (at >= size)  # before, in, or behind the block
    source = blocks.neighbours[:, 3 * third[:, None] + third[None, :]]  # n v u
    own = jnp.arange(n)[:, None, None]
    edge, wrapped = jnp.clip(at, 0, size - 1), at % size
    row = jnp.where(source < 0, edge[:, None], wrapped[:, None])
    column = jnp.where(source < 0, edge[None, :], wrapped[None, :])
    slot = jnp.where(source < 0, own, source)
    frame = jnp.arange(f)[:, None, None]
    index = ((slot[:, None] * f + frame) * size + row[:, None]) * size + column[:, None]
    bordered = x.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where((source == OUTSIDE)[:, None, :, :, None], 0, bordered)


def take_blocks(
    picture: Float[Array, "1 f h w c"], blocks: Blocks, size: int, border: int
) -> Float[Array, "n f v u c"]:
    """Blocks of ``size`` pixels cut out of a dense picture with a border, zero beyond the picture.

    v = u = size + 2 border. Slots of padding hold copies of the last block.
    """
    _, f, h, w, c = picture.shape
    place = jnp.minimum(blocks.place, (h // size) * (w // size) - 1)
    around = jnp.arange(-border, size + border)
    row = (place // (w // size) * size)[:, None] + around  # n v
    column = (place % (w // size) * size)[:, None] + around
    inside = ((row >= 0) & (row < h))[:, :, None] & ((column >= 0) & (column < w))[:, None, :]
    row, column = jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)
    frame = jnp.arange(f)[:, None, None]
    index = (frame * h + row[:, None, :, None]) * w + column[:, None, None, :]
    cut = picture.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where(inside[:, None, :, :, None], cut, 0)


def put_blocks(
    picture: Float[Array, "1 f h w c"], x: Float[Array, "n f s s c"], blocks: Blocks
) -> Float[Array, "1 f h w c"]:
    """The dense picture with its active blocks replaced. Slots of padding go nowhere."""
    _, f, h, w, c = picture.shape
    size = x.shape[2]
    rows, columns = h // size, w // size
    tiles = picture.reshape(f, rows, size, columns, size, c).transpose(1, 3, 0, 2, 4, 5)
    tiles = tiles.reshape(rows * columns, f, size, size, c)
    tiles = tiles.at[blocks.place].set(x.astype(picture.dtype), mode="drop")
    tiles = tiles.reshape(rows, columns, f, size, size, c).transpose(2, 0, 3, 1, 4, 5)
    return tiles.reshape(picture.shape)


def _with_past(
    x: Float[Array, "n f v u c"], carry: Past | None, blocks: Blocks, taps: int, steps: int = 1
) -> tuple[Float[Array, "n g v u c"], Past]:
    """x behind the frames before it, and what to remember. The frames before are, of blocks that
    were not active, copies of x's first one."""
    before = x[:, :1]
    if carry is not None:
        known = (blocks.before >= 0)[:, None, None, None, None]
        frames = carry.frames.at[jnp.maximum(blocks.before, 0)].get(mode="promise_in_bounds")
        before = jnp.where(known, frames.astype(x.dtype), before)
    elif taps > 2:
        before = jnp.repeat(before, taps - 1, axis=1)
    x = jnp.concatenate([before, x], axis=1)
    return x, Past(x[:, x.shape[1] - (taps - steps) :])


def into_slots(carry: Carry, blocks: Blocks) -> tuple[Carry, Blocks]:
    """What active blocks remember, moved into the slots of ``blocks``; and those, as if each had
    been there before. So one program serves all frames after one with another number of slots."""

    def move(part: Carry) -> Carry:
        if not isinstance(part, Past):
            return part
        return Past(part.frames.at[jnp.maximum(blocks.before, 0)].get(mode="promise_in_bounds"))

    moved = jax.tree.map(move, carry, is_leaf=lambda part: isinstance(part, Past))
    here = jnp.arange(len(blocks.before), dtype=blocks.before.dtype)
    return moved, blocks._replace(before=jnp.where(blocks.before >= 0, here, MISSING))


def _run(conv: CausalConv3d, bordered: Array) -> Array:
    """The convolution on blocks that have their border and their past."""
    (top, bottom), (left, right) = conv.padding
    v, u = bordered.shape[2:4]
    inner = bordered[:, :, 1 - top : v - 1 + bottom, 1 - left : u - 1 + right]
    kernel = conv.kernel[...].astype(conv.dtype)
    return conv3d(inner, kernel, conv.strides, _VALID) + conv.bias[...].astype(conv.dtype)


def block_conv(
    conv: CausalConv3d, x: Float[Array, "n f h w i"], carry: Carry, blocks: Blocks
) -> tuple[Float[Array, "n g v u o"], Carry]:
    """The layer ``conv`` on active blocks, and what to remember of them."""
    x = x.astype(conv.dtype)
    taps, steps = conv.kernel.shape[0], conv.strides[0]
    if conv.kernel.shape[:3] == (1, 1, 1):
        return conv(x)[0], ()
    x = with_border(x, blocks)
    if taps == 1:
        return _run(conv, x), ()
    x, carry = _with_past(x, carry, blocks, taps, steps)
    return _run(conv, x), carry


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
        before = jnp.repeat(picture[:, :1], taps - 1, axis=1) if carry is None else carry
        picture = jnp.concatenate([before.astype(picture.dtype), picture], axis=1)
    y = _run(conv, take_blocks(picture, blocks, size, 1))
    return y, picture[:, picture.shape[1] - (taps - 1) :] if taps > 1 else ()


def block_group_norm(
    norm: GroupNorm, x: Float[Array, "n f h w c"], memory: Carry, blocks: Blocks
) -> tuple[Float[Array, "n f h w c"], Carry]:
    """The layer ``norm`` on active blocks, in float32.

    The statistics of a frame are over all blocks: of active ones as they are, of the others as they
    were when last active. That is the memory, (blocks, 2, g); None: x holds all blocks in order.
    """
    width = x.shape[-1] // norm.groups
    found = jnp.stack([part[:, :, 0, 0, ::width] for part in moments(x, norm.groups)], axis=2)
    if memory is not None:
        of_all = jnp.broadcast_to(memory[:, None], (len(memory), *found.shape[1:]))
        found = of_all.at[blocks.place].set(found, mode="drop")
    means, variances = found[:, :, 0], found[:, :, 1]  # blocks f g
    mean = means.mean(axis=0)
    variance = (variances + jnp.square(means - mean)).mean(axis=0)
    mean, variance = (jnp.repeat(v, width, axis=-1)[None, :, None, None] for v in (mean, variance))
    y = normalise(x, Moments(mean, variance), norm.scale[...], norm.bias[...])
    return y, found[:, -1]


def _second_half(
    resnet: Resnet, x: Array, y: Array, norm2: Carry, conv2: Carry, blocks: Blocks
) -> tuple[Array, Carry, Carry]:
    """From the first convolution's result ``y`` on; x: the layer's input on active blocks."""
    y, norm2 = block_group_norm(resnet.norm2, y, norm2, blocks)
    y, conv2 = block_conv(resnet.conv2, jax.nn.silu(y), conv2, blocks)
    if resnet.conv_shortcut is not None:
        x, _ = resnet.conv_shortcut(x)
    return x + y, norm2, conv2


def block_resnet(
    resnet: Resnet, x: Float[Array, "n f h w i"], carry: Carry, blocks: Blocks
) -> tuple[Float[Array, "n f h w o"], Carry]:
    """The layer ``resnet`` on active blocks."""
    norm1, conv1, norm2, conv2 = (None,) * 4 if carry is None else carry
    y, norm1 = block_group_norm(resnet.norm1, x, norm1, blocks)
    y, conv1 = block_conv(resnet.conv1, jax.nn.silu(y), conv1, blocks)
    y, norm2, conv2 = _second_half(resnet, x, y, norm2, conv2, blocks)
    return y, (norm1, conv1, norm2, conv2)


def picture_resnet(
    resnet: Resnet, picture: Float[Array, "1 f h w i"], carry: Carry, blocks: Blocks, size: int
) -> tuple[Float[Array, "n f s s o"], Carry]:
    """The layer ``resnet`` on active blocks of a dense picture: exact up to its second half."""
    conv1, norm2, conv2 = (None,) * 3 if carry is None else carry
    y = jax.nn.silu(resnet.norm1(picture))
    y, conv1 = picture_conv(resnet.conv1, y, conv1, blocks, size)
    x = take_blocks(picture, blocks, size, 0)
    y, norm2, conv2 = _second_half(resnet, x, y, norm2, conv2, blocks)
    return y, (conv1, norm2, conv2)


def _constants(kernel: Kernel, bias: Float[Array, " o"], size: int, blocks: Blocks) -> Array:
    """What ``kernel`` adds at each place of each block, less at the picture's borders: n v u q."""
    table = edges(edges(kernel.ones.sum(axis=0), 0), 1) + jnp.tile(bias, 4)
    place = jnp.arange(size + 1)

    def kind(before: int, behind: int) -> Array:
        first = (blocks.neighbours[:, before] == OUTSIDE)[:, None] & (place == 0)
        last = (blocks.neighbours[:, behind] == OUTSIDE)[:, None] & (place == size)
        return jnp.where(first, 0, jnp.where(last, 2, 1))

    return table[kind(1, 7)[:, :, None], kind(3, 5)[:, None, :]]


def block_upsample(
    upsample: Upsample, x: Float[Array, "n f h w c"], carry: Carry, blocks: Blocks
) -> tuple[Float[Array, "n f v u c"], Carry]:
    """The layer ``upsample``, which must not double frames, on active blocks: v = 2 h, u = 2 w."""
    kernel = upsample.kernel()
    x = with_border(x.astype(upsample.conv.dtype), blocks)
    seen, carry = _with_past(x, carry, blocks, kernel.weights.shape[0])
    y = conv3d(seen, kernel.weights, padding=_VALID)
    bias = upsample.conv.bias[...].astype(jnp.float32)
    constants = _constants(kernel, bias, x.shape[2] - 2, blocks)
    return unfold(y + constants[:, None].astype(y.dtype), 1), carry
