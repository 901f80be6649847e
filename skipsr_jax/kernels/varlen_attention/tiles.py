"""From segment bounds to the tiles of work of the GPU kernels.

Each segment is cut, from its own first row on, into tiles of TILE_ROWS; no tile holds rows of two
segments, so windows need no alignment and a tile needs a mask only at its segment's end. How many
tiles there are is run-time data; the grid has room for the most there can be, and the rest of it
leaves at once.
"""

import jax.numpy as jnp

from skipsr_jax.types import Array, Int

TILE_ROWS = 128

# Columns of the table: first row of the tile, how many of its rows are the segment's (0: no work),
# the segment's first row, its length and its first tile.
TILE_START, TILE_COUNT, SEGMENT_START, SEGMENT_LENGTH, SEGMENT_TILE = range(5)


def tiles_of(cu_seqlens: Int[Array, "b g1"], rows: int) -> Int[Array, "t 5"]:
    """The tiles of packs of ``rows`` laid end to end, with the columns above."""
    packs, segments = cu_seqlens.shape[0], cu_seqlens.shape[1] - 1
    cu = jnp.clip(cu_seqlens.astype(jnp.int32), 0, rows)
    cu = cu + rows * jnp.arange(packs, dtype=jnp.int32)[:, None]
    starts, ends = cu[:, :-1].reshape(-1), cu[:, 1:].reshape(-1)
    lengths = ends - starts
    tiles = -(-lengths // TILE_ROWS)
    last = jnp.cumsum(tiles)
    tile = jnp.arange(packs * (rows // TILE_ROWS + segments), dtype=jnp.int32)
    segment = jnp.searchsorted(last, tile, side="right", method="scan")
    exists = segment < packs * segments
    segment = jnp.minimum(segment, packs * segments - 1)
    first = (last - tiles)[segment]
    start = starts[segment] + TILE_ROWS * (tile - first)
    count = jnp.where(exists, jnp.minimum(ends[segment] - start, TILE_ROWS), 0)
    columns = (start, count, starts[segment], lengths[segment], first)
    return jnp.stack(columns, axis=1).astype(jnp.int32)
