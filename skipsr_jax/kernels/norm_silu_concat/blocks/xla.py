"""Norm, SiLU and concatenation of active blocks in plain XLA: the reference, and its facts."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.scale_shift import ScaleShift, scale_shift_silu
from skipsr_jax.types import Float, Int


@dataclasses.dataclass(frozen=True)
class BlocksProblem:
    """The facts that decide which implementation can run.

    Attributes:
      slots: of blocks.
      frames: new ones.
      size: pixels along the side of a block.
      channels: of a pixel.
      cached: frames in the cache.
      dtype: of the blocks.
      result_dtype: of the result and the cache: that of the blocks, or e4m3.
    """

    slots: int
    frames: int
    size: int
    channels: int
    cached: int
    dtype: np.dtype
    result_dtype: np.dtype


class HaloIndex(NamedTuple):
    """Where each pixel of a block with its halo comes from.

    Attributes:
      slot: that holds the pixel.
      pixel: counted row by row in the block of that slot; -1 where there is no neighbour.
    """

    slot: Int[Array, "slots side side"]
    pixel: Int[Array, "slots side side"]


def halo_index(neighbours: Int[Array, "slots 9"], size: int) -> HaloIndex:
    """The index for blocks of ``size`` x ``size`` pixels with a halo of one: side = size + 2.

    ``neighbours``: slots of the 3 x 3 blocks around each, row by row; negative where there is none.
    """
    at = jnp.arange(-1, size + 1)
    third = (at >= 0).astype(jnp.int32) + (at >= size)  # before, in, or behind the block
    source = neighbours[:, 3 * third[:, None] + third[None, :]]
    pixel = (at % size)[:, None] * size + at % size
    return HaloIndex(jnp.maximum(source, 0), jnp.where(source < 0, -1, pixel))


def add_halo(
    x: Float[Array, "slots f size size c"], halo: HaloIndex
) -> Float[Array, "slots f side side c"]:
    """Each block with one more pixel on every side, zero where there is no neighbour."""
    _, f, size, _, c = x.shape
    slot, pixel = (part[:, None] for part in halo)
    frame = jnp.arange(f, dtype=jnp.int32)[:, None, None]
    index = (slot * f + frame) * (size * size) + jnp.maximum(pixel, 0)
    y = x.reshape(-1, c).at[index].get(mode="promise_in_bounds")
    return jnp.where((pixel < 0)[..., None], 0, y)


def scatter_slots(
    blocks: Float[Array, "blocks ..."],
    block_index: Int[Array, " slots"],
    values: Float[Array, "slots ..."],
) -> Float[Array, "blocks ..."]:
    """All ``blocks``, with those of the slots replaced; indices out of bounds are dropped.

    No index occurs twice: else a GPU would write each number by an atomic exchange.
    """
    return blocks.at[block_index].set(values, mode="drop", unique_indices=True)


def norm_silu_concat(
    x: Float[Array, "slots f size size c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "blocks cached side side c"],
    block_index: Int[Array, " slots"],
    neighbours: Int[Array, "slots 9"],
    halo: HaloIndex,
) -> tuple[Float[Array, "slots f_out side side c"], Float[Array, "blocks cached side side c"]]:
    """See ``api.norm_silu_concat_blocks``. It takes the halo's index as it is already there."""
    del neighbours
    x = add_halo(scale_shift_silu(x, scale_shift, cache.dtype), halo)
    cached = cache.at[jnp.minimum(block_index, len(cache) - 1)].get(mode="promise_in_bounds")
    y = jax.lax.optimization_barrier(jnp.concatenate([cached, x], axis=1))
    last = y[:, y.shape[1] - cache.shape[1] :]  # copied, not computed again
    return y, scatter_slots(cache, block_index, last)
