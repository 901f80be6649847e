"""Joining blocks with borders and past in plain XLA: the reference, and the way everywhere."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine, activated
from skipsr_jax.types import Float, Int


class Border(NamedTuple):
    """Where each pixel of a block with its border comes from."""

    slot: Int[Array, "n v u"]
    pixel: Int[Array, "n v u"]
    """Counted row by row in the block of that slot; -1 without a neighbour."""


def border_of(neighbours: Int[Array, "n 9"], size: int) -> Border:
    """Of blocks of ``size`` pixels along a side, one pixel wide."""
    at = jnp.arange(-1, size + 1)
    third = (at >= 0).astype(jnp.int32) + (at >= size)  # before, in, or behind the block
    source = neighbours[:, 3 * third[:, None] + third[None, :]]
    pixel = (at % size)[:, None] * size + at % size
    return Border(jnp.maximum(source, 0), jnp.where(source < 0, -1, pixel))


def with_border(x: Float[Array, "n f h w c"], border: Border) -> Float[Array, "n f v u c"]:
    """Each block with one more pixel on every side: v = h + 2, u = w + 2."""
    _, f, size, _, c = x.shape
    slot, pixel = (part[:, None] for part in border)
    frame = jnp.arange(f, dtype=jnp.int32)[:, None, None]
    index = (slot * f + frame) * (size * size) + jnp.maximum(pixel, 0)
    bordered = x.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where((pixel < 0)[..., None], 0, bordered)


def put(
    table: Float[Array, "m ..."], place: Int[Array, " n"], values: Float[Array, "n ..."]
) -> Float[Array, "m ..."]:
    """The table of all blocks with those of the slots replaced; places beyond it go nowhere. None
    occurs twice: else a GPU would put each number by an atomic exchange."""
    return table.at[place].set(values, mode="drop", unique_indices=True)


def join_blocks(
    x: Float[Array, "n f s s c"],
    affine: Affine | None,
    table: Float[Array, "m k v v c"],
    place: Int[Array, " n"],
    border: Border,
) -> tuple[Float[Array, "n g v v c"], Float[Array, "m k v v c"]]:
    """See ``api.join_blocks``."""
    x = with_border(activated(x, affine), border)
    before = table.at[jnp.minimum(place, len(table) - 1)].get(mode="promise_in_bounds")
    joined = jax.lax.optimization_barrier(jnp.concatenate([before, x], axis=1))
    last = joined[:, joined.shape[1] - table.shape[1] :]  # copied, not computed again
    return joined, put(table, place, last)
