"""Convolutions on horizontal tiles of the picture, one after the other.

What a layer makes on its way (normalised frames joined with those from before) is then a tile's;
only what goes in and comes out is whole. Each tile is given with one row more above and below, so
that its convolution sees what it would see in the whole picture; statistics of group norms are of
whole frames and taken before. Invariant: the numbers of the whole picture.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.frames import last_frames
from skipsr_jax.models.layers.causal_conv import Carry, CausalConv3d, conv3d, with_past
from skipsr_jax.types import DType, Float, Int

Pointwise = Callable[[Array], Array]
"""Of frames (b, f, h, w, c): what becomes of a pixel depends on that pixel alone."""


def with_halo(
    x: Float[Array, "b f h w c"], first: Int[Array, ""], rows: int, prepare: Pointwise
) -> Float[Array, "b f r w c"]:
    """``prepare`` of rows ``first`` - 1 to ``first`` + ``rows``; zero outside the picture."""
    places = first - 1 + jnp.arange(rows + 2)
    seen = prepare(jnp.take(x, places, axis=2, mode="clip"))
    inside = (places >= 0) & (places < x.shape[2])
    return jnp.where(inside[:, None, None], seen, 0)


def in_tiles(
    tiles: int,
    shape: tuple[int, ...],
    dtype: DType,
    make: Callable[[Int[Array, ""]], Array],
) -> Float[Array, "b f h w c"]:
    """A picture of ``shape`` put together from ``make(number of the tile)``."""

    def put(number: Array, whole: Array) -> Array:
        part = make(number).astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(whole, part, number * part.shape[2], axis=2)

    return jax.lax.fori_loop(0, tiles, put, jnp.zeros(shape, dtype))


def conv_in_tiles(
    conv: CausalConv3d,
    prepare: Pointwise,
    x: Float[Array, "b f h w i"],
    carry: Carry,
    tiles: int,
    added: tuple[Pointwise, Float[Array, "b f h w r"]] | None = None,
) -> tuple[Float[Array, "b f h w o"], Carry]:
    """A 3 x 3 x 3 convolution of ``prepare(x)`` with its bias, and its carry.

    ``added``: a function and frames; the function of the frames is added to the result.
    """
    b, f, h, w, _ = x.shape
    rows, dtype = h // tiles, conv.dtype
    kernel, bias = conv.kernel[...].astype(dtype), conv.bias[...].astype(dtype)
    remembered = kernel.shape[0] - 1

    def make(number: Array) -> Array:
        first = number * rows
        before = None if carry is None else with_halo(carry, first, rows, lambda part: part)
        frames = with_past(with_halo(x, first, rows, prepare).astype(dtype), before, remembered)
        y = conv3d(frames, kernel, padding=((0, 0), (1, 1))) + bias
        if added is None:
            return y
        function, source = added
        return function(jax.lax.dynamic_slice_in_dim(source, first, rows, axis=2)) + y

    y = in_tiles(tiles, (b, f, h, w, kernel.shape[-1]), dtype, make)
    # After all tiles: only then is the memory of the old carry free for the new one.
    x, y = jax.lax.optimization_barrier((x, y))
    last = prepare(x)[:, -remembered:].astype(dtype)
    if f < remembered:
        last = last_frames(with_past(last, carry, remembered), remembered)
    return y, last
