"""Doubling of pixels and frames: a pointwise convolution, a shuffle and a 3x3x3 one, as one.

The public layer makes new pixels as channels (1x1x1 kernel U), shuffles them into place and runs a
causal 3x3x3 convolution W at the doubled size. Nothing but sums lies between U and W, so both are
one transposed convolution: along each axis a small pixel reaches four new ones, d places on by
sum_{r + k = d} U_r W_k, where r counts its own new pixels and k the taps, turned around. A new
pixel then costs 2 x 2 x 3 products of channels instead of 3 x 3 x 3 (2 x 2 x 2 where frames double
too), the layer remembers small frames, and nothing of the doubled size is read. Invariant: the
numbers of the two convolutions, but for rounding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.frames import last_frames
from skipsr_jax.models.layers.causal_conv import (
    Carry,
    CausalConv3d,
    causal_conv3d,
    conv3d,
    with_past,
)
from skipsr_jax.models.vae.spatial_tiles import in_tiles, with_halo
from skipsr_jax.parallel.activations import multi_device_mesh
from skipsr_jax.types import Float

# Place i of n + 1 along an axis holds the new pixels 2 i - 1 and 2 i of n small ones.
_BETWEEN = ((1, 1), (1, 1))


_PIXELS_PER_CHANNEL = 8
"""From how many small pixels for each channel on merging the kernels, which costs as many products
as some pixels do, is worth it."""


def _worth_merging(x: Float[Array, "b f h w c"]) -> bool:
    """Depends on what all slices of a clip share. Over several devices the two convolutions stay
    apart: the merged one has one place more than there are pixels, which no mesh divides."""
    one_device = multi_device_mesh() is None
    return one_device and x.shape[2] * x.shape[3] >= _PIXELS_PER_CHANNEL * x.shape[4]


class Kernel(NamedTuple):
    """A convolution of small frames to the channels (frame, row, column, out) of each place."""

    weights: Float[Array, "t 2 2 i q"]
    ones: Float[Array, "t 2 2 q"]
    """The weights of a channel that is 1 in the picture: what the pointwise bias adds."""


def _spread(products: Array, axis: int, along: int) -> Array:
    """sum_{r + k = d}, with r on ``axis`` (removed) and k, then d, on the later axis ``along``."""
    parts = jnp.unstack(products, axis=axis)
    total = 0.0
    for r, part in enumerate(parts):
        pads = [(0, 0)] * part.ndim
        pads[along - 1] = (r, len(parts) - 1 - r)
        total += jnp.pad(part, pads)
    return total


def _products(
    pointwise: Float[Array, "i q"], bias: Float[Array, " q"], kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "j z 3 4 4 o"]:
    """U_r W_k for new frames z and taps in time, spread in space; the last of j is the bias."""
    c = kernel.shape[3]
    both = jnp.concatenate([pointwise, bias[None]]).reshape(
        -1, 2, 2, pointwise.shape[1] // 4 // c, c
    )
    exact = jax.lax.Precision.HIGHEST if kernel.dtype == jnp.float32 else None
    products = jnp.einsum(
        "jrszc,tklco->jrsztklo",
        both,
        kernel[::-1, ::-1, ::-1],
        precision=exact,
        preferred_element_type=jnp.float32,
    )
    return _spread(_spread(products, axis=1, along=5), axis=1, along=5)


def _gathering(sent: Float[Array, "j d 4 4 o"], frames: int, dtype: Any) -> Kernel:
    """What small pixels send, as the kernel by which places gather it.

    Along a spatial axis pixel i sends to the places i (d = 0, 1) and i + 1 (d = 2, 3); in time a
    place holds ``frames`` new frames.
    """
    j, d, *_, o = sent.shape
    sent = sent.reshape(j, d // frames, frames, 2, 2, 2, 2, o)[:, ::-1, :, ::-1, :, ::-1]
    gathered = sent.transpose(1, 3, 5, 0, 2, 4, 6, 7).reshape(d // frames, 2, 2, j, -1)
    return Kernel(gathered[..., :-1, :].astype(dtype), gathered[..., -1, :])


def edges(values: Array, axis: int) -> Array:
    """Two taps along ``axis`` summed over those inside the picture: at its first place, at inner
    ones, at its last."""
    before, after = jnp.unstack(values, axis=axis)
    return jnp.stack([after, before + after, before], axis=axis)


def add_inner(
    y: Float[Array, "b f v u q"], ones: Float[Array, "t 2 2 q"], bias: Float[Array, " o"]
) -> tuple[Float[Array, "b f v u q"], Float[Array, "3 3 q"]]:
    """Adds the bias and what the pointwise bias sends to inner places, and gives what first, inner
    and last ones of rows and columns get beyond that.

    The convolution adds the former; its result is kept apart from the rest, which would otherwise
    become a whole picture for it to read.
    """
    constants = edges(edges(ones.sum(axis=0), 0), 1) + jnp.tile(bias, y.shape[-1] // bias.size)
    y = jax.lax.optimization_barrier(y + constants[1, 1].astype(y.dtype))
    return y, (constants - constants[1, 1]).astype(y.dtype)


def _add_constants(
    y: Float[Array, "b f v u q"],
    ones: Float[Array, "t 2 2 q"],
    bias: Float[Array, " o"],
    rows: int,
    start: int | Array = 0,
) -> Float[Array, "b f v u q"]:
    """Adds the bias and what the pointwise bias sends, less at the borders of the picture.

    The places of ``y`` are those from row ``start`` on, of a picture of ``rows`` small pixels.
    """
    y, constants = add_inner(y, ones, bias)
    for axis, (length, begin, end) in enumerate(
        ((y.shape[2], start, rows), (y.shape[3], 0, y.shape[3] - 1))
    ):
        place = begin + jnp.arange(length).reshape(-1, *(1,) * (2 - axis))
        first, inner, last = jnp.split(constants, 3, axis=axis)
        constants = jnp.where(place == 0, first, jnp.where(place == end, last, inner))
    return y + constants


def unfold(y: Float[Array, "b f v u q"], frames: int) -> Float[Array, "b g h w o"]:
    """Channels to the pixels of their place."""
    b, f, v, u, _ = y.shape
    y = y.reshape(b, f, v, u, frames, 2, 2, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return y.reshape(b, f * frames, 2 * v, 2 * u, -1)[:, :, 1:-1, 1:-1]


def _repeated_identity(key, shape, dtype):
    """A 1x1x1 kernel that copies each input pixel to all the pixels it becomes."""
    *_, channels, out = shape
    return jnp.tile(jnp.eye(channels, dtype=dtype), out // channels).reshape(shape)


class Upsample(nnx.Module):
    """Twice the height and width, and twice the frames if ``in_time``.

    A 1x1x1 convolution makes the new pixels as channels ((row * 2 + column) * frames + frame) * c;
    then a 3x3x3 convolution. The first frame of a clip stands for one frame, not for two: its twin
    is dropped, so f frames become 2 f - 1 in the first slice.
    """

    def __init__(
        self, channels: int, in_time: bool, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any
    ):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.time_factor = 2 if in_time else 1
        self.upscale_conv = CausalConv3d(
            channels,
            channels * 4 * self.time_factor,
            (1, 1, 1),
            kernel_init=_repeated_identity,
            **kind,
        )
        self.conv = CausalConv3d(channels, channels, **kind)

    def __call__(self, x: Float[Array, "b f h w c"], carry: Carry = None, tiles: int = 1):
        x = x.astype(self.conv.dtype)
        if not _worth_merging(x):
            return self.conv(self.spread(x, first=carry is None), carry)
        if self.time_factor == 2:
            return self._with_frames(x, self._merged(), carry)
        if tiles > 1:
            return self._in_tiles(x, carry, tiles)
        kernel = self.kernel()
        y, carry = causal_conv3d(x, kernel.weights, carry, padding=_BETWEEN)
        return unfold(self._complete(y, kernel), 1), carry

    def _merged(self) -> Float[Array, "j z 3 4 4 o"]:
        dtype = self.conv.dtype
        pointwise = self.upscale_conv.kernel[...].astype(dtype)[0, 0, 0]
        bias = self.upscale_conv.bias[...].astype(dtype)
        return _products(pointwise, bias, self.conv.kernel[...].astype(dtype))

    def kernel(self) -> Kernel:
        """Both convolutions as one, of a layer that leaves the frames' number alone."""
        return _gathering(self._merged()[:, 0], 1, self.conv.dtype)

    def spread(self, x: Float[Array, "b f h w c"], first: bool) -> Float[Array, "b g v u c"]:
        """The new pixels before the 3x3x3 convolution; ``first``: x starts its clip."""
        b, f, h, w, c = x.shape
        z = self.time_factor
        x, _ = self.upscale_conv(x)
        x = x.reshape(b, f, h, w, 2, 2, z, c).transpose(0, 1, 6, 2, 4, 3, 5, 7)  # b f z h 2 w 2 c
        x = x.reshape(b, f * z, h * 2, w * 2, c)
        return jnp.concatenate([x[:, :1], x[:, 2:]], axis=1) if first and z == 2 else x

    def _in_tiles(self, x: Float[Array, "b f h w c"], carry: Carry, tiles: int):
        """Of places too each tile makes one more than it has small rows; its ends are cut off."""
        kernel, bias = self.kernel(), self.conv.bias[...].astype(jnp.float32)
        taps, (b, f, h, w, c) = kernel.weights.shape[0], x.shape
        joined, rows = with_past(x, carry, taps - 1), h // tiles

        def make(number: Array) -> Array:
            seen = with_halo(joined, number * rows, rows, lambda part: part)
            y = conv3d(seen, kernel.weights, padding=((0, 0), _BETWEEN[1]))
            return unfold(_add_constants(y, kernel.ones, bias, h, number * rows), 1)

        y = in_tiles(tiles, (b, f, 2 * h, 2 * w, c), x.dtype, make)
        return y, last_frames(joined, taps - 1)

    def _complete(self, y: Float[Array, "b f v u q"], kernel: Kernel):
        bias = self.conv.bias[...].astype(jnp.float32)
        return _add_constants(y, kernel.ones, bias, y.shape[2] - 1)

    def _with_frames(self, x: Float[Array, "b f h w c"], products: Array, carry: Carry):
        """Frames 2 k - 1 and 2 k from small frames k - 1 and k. Carry: the last small frame, and
        whether it is the first of its clip, without its twin."""
        twinless = products[:, 0]  # a first frame's own taps; those before it are copies of it
        if carry is None:
            kernel = _gathering(twinless.sum(axis=1, keepdims=True), 1, x.dtype)
            y = self._complete(conv3d(x[:, :1], kernel.weights, padding=_BETWEEN), kernel)
            start, x_later = unfold(y, 1), x[:, 1:]
            carry = x[:, :1], jnp.asarray(True)
            if not x_later.shape[1]:
                return start, carry
            later, carry = self._with_frames(x_later, products, carry)
            return jnp.concatenate([start, later], axis=1), carry
        before, is_first = carry
        sent = _spread(products, axis=1, along=2)
        after_first = jnp.stack([twinless[:, 1] + twinless[:, 2], twinless[:, 2]], axis=1)
        special = jnp.concatenate([sent[:, :2], jnp.where(is_first, after_first, sent[:, 2:])], 1)
        seen = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        parts = []
        for frames, kernel in ((seen[:, :2], special), (seen[:, 1:], sent)):
            if frames.shape[1] > 1:
                kernel = _gathering(kernel, 2, x.dtype)
                y = self._complete(conv3d(frames, kernel.weights, padding=_BETWEEN), kernel)
                parts.append(unfold(y, 2))
        return jnp.concatenate(parts, axis=1), (x[:, -1:], jnp.asarray(False))
