"""The two convolutions of an upsampling as one: the merged kernel, and what its results become.

The public layer makes new pixels as channels (1x1x1 kernel U), shuffles them to their positions
and runs a causal 3x3x3 convolution W at the doubled size. Between U and W there are only sums, so
both are one transposed convolution: along each axis a small pixel reaches four new ones, at a
distance d by sum_{r + k = d} U_r W_k, where r counts its own new pixels and k the taps, turned
around. A new pixel then costs 2 x 2 x 3 products of channels instead of 3 x 3 x 3 (2 x 2 x 2 where
frames double too), the layer's cache holds small frames, and no array of the doubled size is read.
Invariant: the numbers of the two convolutions, but for rounding.

The merged convolution has one output position more than there are small pixels along each spatial
axis: position i of n + 1 holds the new pixels 2 i - 1 and 2 i, as channels (frame, row, column,
feature). ``positions_to_pixels`` lays them out and drops those outside the frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import DType, Float


class MergedKernel(NamedTuple):
    """A convolution of small frames to the new pixels of each position.

    Attributes:
      weights: (taps, 2, 2, i, new pixels and features).
      ones: weights of a channel that is 1 inside the frame: the contribution of the pointwise bias.
    """

    weights: Float[Array, "taps 2 2 i new"]
    ones: Float[Array, "taps 2 2 new"]


def shift_and_sum(products: Array, axis: int, along: int) -> Array:
    """sum_{r + k = d}, with r on ``axis`` (removed) and k, then d, on the later axis ``along``."""
    parts = jnp.unstack(products, axis=axis)
    total = 0.0
    for r, part in enumerate(parts):
        pads = [(0, 0)] * part.ndim
        pads[along - 1] = (r, len(parts) - 1 - r)
        total += jnp.pad(part, pads)
    return total


def kernel_products(
    pointwise: Float[Array, "i new"], bias: Float[Array, " new"], kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "features new_frames 3 4 4 o"]:
    """U_r W_k for new frames and taps in time, shifted and summed in space.

    The last of the input features is the pointwise bias.
    """
    c = kernel.shape[3]
    both = jnp.concatenate([pointwise, bias[None]]).reshape(
        -1, 2, 2, pointwise.shape[1] // 4 // c, c
    )
    exact = jax.lax.Precision.HIGHEST if kernel.dtype == jnp.float32 else None
    products = jnp.einsum(
        "iHWFc,TYXco->iHWFTYXo",  # capitals: a small pixel's new ones, and the taps
        both,
        kernel[::-1, ::-1, ::-1],
        precision=exact,
        preferred_element_type=jnp.float32,
    )
    return shift_and_sum(shift_and_sum(products, axis=1, along=5), axis=1, along=5)


def merged_kernel(
    sent: Float[Array, "features distances 4 4 o"], new_frames: int, dtype: DType
) -> MergedKernel:
    """The kernel by which positions gather what small pixels send to each distance.

    Along a spatial axis small pixel i sends to the positions i (distances 0 and 1) and i + 1
    (distances 2 and 3). In time a position holds ``new_frames`` new frames.
    """
    features, distances, *_, o = sent.shape
    taps = distances // new_frames
    sent = sent.reshape(features, taps, new_frames, 2, 2, 2, 2, o)[:, ::-1, :, ::-1, :, ::-1]
    gathered = sent.transpose(1, 3, 5, 0, 2, 4, 6, 7).reshape(taps, 2, 2, features, -1)
    return MergedKernel(gathered[..., :-1, :].astype(dtype), gathered[..., -1, :])


def _sums_inside(values: Array, axis: int) -> Array:
    """Two taps along ``axis``, summed where they are inside the frame: at its first position, at
    inner ones, and at its last."""
    before, after = jnp.unstack(values, axis=axis)
    return jnp.stack([after, before + after, before], axis=axis)


def add_inner_constants(
    y: Float[Array, "b f h w new"], ones: Float[Array, "taps 2 2 new"], bias: Float[Array, " o"]
) -> tuple[Float[Array, "b f h w new"], Float[Array, "3 3 new"]]:
    """Adds the bias and the contribution of the pointwise bias that inner positions get.

    The second result is what first, inner and last rows and columns of positions get beyond that.
    The convolution adds the constants of the inner positions; the barrier keeps the rest out of it,
    which would otherwise become a whole frame for it to read.
    """
    constants = _sums_inside(_sums_inside(ones.sum(axis=0), 0), 1) + jnp.tile(
        bias, y.shape[-1] // bias.size
    )
    y = jax.lax.optimization_barrier(y + constants[1, 1].astype(y.dtype))
    return y, (constants - constants[1, 1]).astype(y.dtype)


def add_constants(
    y: Float[Array, "b f h w new"],
    ones: Float[Array, "taps 2 2 new"],
    bias: Float[Array, " o"],
    last_row: int,
    start: int | Array = 0,
) -> Float[Array, "b f h w new"]:
    """Adds the bias and the contribution of the pointwise bias, which is less at the frame's edges.

    ``y`` holds the rows of positions from ``start`` on, of a frame whose last one is ``last_row``.
    """
    y, constants = add_inner_constants(y, ones, bias)
    for axis, (length, begin, end) in enumerate(
        ((y.shape[2], start, last_row), (y.shape[3], 0, y.shape[3] - 1))
    ):
        position = begin + jnp.arange(length).reshape(-1, *(1,) * (2 - axis))
        first, inner, last = jnp.split(constants, 3, axis=axis)
        constants = jnp.where(position == 0, first, jnp.where(position == end, last, inner))
    return y + constants


def positions_to_pixels(
    y: Float[Array, "b f h w new"], new_frames: int
) -> Float[Array, "b f_out h_out w_out o"]:
    """The new pixels of all positions, without those outside the frame: h_out = 2 (h - 1)."""
    b, f, h, w, _ = y.shape
    y = y.reshape(b, f, h, w, new_frames, 2, 2, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return y.reshape(b, f * new_frames, 2 * h, 2 * w, -1)[:, :, 1:-1, 1:-1]
