"""The table of tiles that the GPU kernels work on, from segment bounds.

Each segment is cut into tiles of TILE_ROWS, from its first row rounded down to ROW_MULTIPLE, where
Hopper's copy engine can begin. No tile works for two segments, so windows need no alignment; a tile
needs a mask only where its segment begins and ends. The number of tiles is run-time data; the table
has capacity for the most there can be.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Int

TILE_ROWS = 128
ROW_MULTIPLE = 8

# Columns of the table. Rows are those of the packs laid end to end:
TILE_START = 0  # first row of the tile
ROW_BEGIN, ROW_END = 1, 2  # which of its rows are the segment's; both 0 where there is no work
SEGMENT_START = 3  # where the segment's first tile starts
SEGMENT_BEGIN, SEGMENT_END = 4, 5  # its rows
SEGMENT_TILE = 6  # its first tile
TILES = 7  # the number of tiles in the whole table, the same in every row


def tile_table(cu_seqlens: Int[Array, "b g1"], rows: int) -> Int[Array, "tiles 8"]:
    """The tiles of packs of ``rows`` laid end to end, with the columns above.

    The longest segments come first, so that the work left at the end is short.
    """
    packs, segments = cu_seqlens.shape[0], cu_seqlens.shape[1] - 1
    cu = jnp.clip(cu_seqlens.astype(jnp.int32), 0, rows)
    cu = cu + rows * jnp.arange(packs, dtype=jnp.int32)[:, None]
    begin, end = cu[:, :-1].reshape(-1), cu[:, 1:].reshape(-1)
    order = jnp.argsort(begin - end, stable=True)
    begin, end = begin[order], end[order]
    start = begin // ROW_MULTIPLE * ROW_MULTIPLE
    tiles = jnp.where(end > begin, -(-(end - start) // TILE_ROWS), 0)
    last = jnp.cumsum(tiles)
    # A segment of n rows takes at most n + ROW_MULTIPLE - 1 + TILE_ROWS - 1 rows of tiles.
    capacity = packs * (rows + segments * (ROW_MULTIPLE + TILE_ROWS - 2)) // TILE_ROWS
    tile = jnp.arange(capacity + 1, dtype=jnp.int32)  # one more: reads may run over a tile's end
    segment = jnp.searchsorted(last, tile, side="right", method="compare_all")
    exists = segment < packs * segments
    segment = jnp.minimum(segment, packs * segments - 1)
    begin, end, start, first = (x[segment] for x in (begin, end, start, last - tiles))
    row = start + TILE_ROWS * (tile - first)
    row_begin = jnp.where(exists, jnp.maximum(row, begin), 0)
    row_end = jnp.where(exists, jnp.minimum(row + TILE_ROWS, end), 0)
    total = jnp.broadcast_to(last[-1], tile.shape)
    columns = (row, row_begin, row_end, start, begin, end, first, total)
    return jnp.stack(columns, axis=1).astype(jnp.int32)
