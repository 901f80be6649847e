"""Convolutions on spatial tiles, horizontal parts of the frames, one after the other.

The intermediates of a layer (normalised frames behind the causal-conv cache) are then those of one
tile; only the layer's input and output are whole. Each tile has a halo of one row above and below,
so that its convolution takes what it would take in the whole frame. Group norms take their
statistics from whole frames before. Invariant: the numbers of the layer on whole frames.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat import frames_to_cache
from skipsr_jax.models.layers.causal_conv import (
    AnyCausalConv,
    Cache,
    with_cached_frames,
)
from skipsr_jax.types import DType, Float, Int

Pointwise = Callable[[Array], Array]
"""A function of frames (b, f, h, w, c) in which each pixel of the result depends on that pixel
alone."""


def rows_with_halo(
    x: Float[Array, "b f h w c"], first: Int[Array, ""], rows: int, prepare: Pointwise
) -> Float[Array, "b f tile_rows w c"]:
    """``prepare`` of rows ``first`` - 1 to ``first`` + ``rows``; zero outside the frame."""
    index = first - 1 + jnp.arange(rows + 2)
    y = prepare(jnp.take(x, index, axis=2, mode="clip"))
    inside = (index >= 0) & (index < x.shape[2])
    return jnp.where(inside[:, None, None], y, 0)


def map_tiles(
    tiles: int,
    shape: tuple[int, ...],
    dtype: DType,
    make: Callable[[Int[Array, ""]], Array],
    x: Array,
) -> Float[Array, "b f h w c"]:
    """Frames of ``shape``, whose tile i is ``make(i)``. One tile is made at a time.

    ``x``: of which tiles are made. The frames begin as one of its numbers, which tiles overwrite:
    XLA would make zeros for all layers in one operation, before the first of them runs.
    """

    def write(i: Array, frames: Array) -> Array:
        tile = make(i).astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(frames, tile, i * tile.shape[2], axis=2)

    start = jnp.broadcast_to(x[0, 0, 0, 0, 0].astype(dtype), shape)
    return jax.lax.fori_loop(0, tiles, write, start)


def conv_in_tiles(
    conv: AnyCausalConv,
    prepare: Pointwise,
    x: Float[Array, "b f h w i"],
    cache: Cache,
    tiles: int,
    added: tuple[Pointwise, Float[Array, "b f h w added_features"]] | None = None,
) -> tuple[Float[Array, "b f h w o"], Cache]:
    """A 3 x 3 x 3 convolution of ``prepare(x)`` with its bias, and its cache.

    ``prepare`` gives numbers of the convolution's ``input_dtype``.

    ``added``: a function and frames; the function of the frames is added to the result.
    """
    b, f, h, w, _ = x.shape
    rows, dtype = h // tiles, conv.input_dtype
    cached = conv.kernel_size[0] - 1

    def make(i: Array) -> Array:
        first = i * rows
        before = None if cache is None else rows_with_halo(cache, first, rows, lambda part: part)
        frames = rows_with_halo(x, first, rows, prepare).astype(dtype)
        frames = with_cached_frames(frames, before, cached)
        y = conv.convolve(frames, ((0, 0), (1, 1)))
        if added is None:
            return y
        function, source = added
        return function(jax.lax.dynamic_slice_in_dim(source, first, rows, axis=2)) + y

    y = map_tiles(tiles, (b, f, h, w, conv.bias.shape[0]), conv.dtype, make, x)
    # After all tiles: only then is the memory of the old cache free for the new one.
    x, y = jax.lax.optimization_barrier((x, y))
    last = prepare(x)[:, -cached:].astype(dtype)
    if f < cached:
        last = frames_to_cache(with_cached_frames(last, cache, cached), cached)
    # Before the layers after this one: only then is the memory of x free for theirs.
    return jax.lax.optimization_barrier((y, last))
