"""The tile table of the GPU kernels, against a loop over the segments."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.attention.gpu_tile_table import TILES, tile_table

ROWS = 600


@pytest.mark.parametrize(
    "bounds",
    [
        [[0, 128, 128, 300, 600]],
        [[0, 0, 1, 2, 3], [5, 5, 5, 5, 5]],
        [[100, 227, 356, 600, 600], [0, 600, 600, 600, 600], [1, 129, 257, 386, 600]],
    ],
)
def test_every_row_of_a_segment_is_in_one_tile(bounds):
    want, segments = [], []
    for pack, cu in enumerate(bounds):
        segments += itertools.pairwise(np.asarray(cu) + ROWS * pack)
    for begin, end in sorted(segments, key=lambda segment: segment[0] - segment[1]):
        start, first = begin - begin % 8, len(want)
        for row in range(start, end if end > begin else start, 128):
            rows = (row, max(row, begin), min(row + 128, end))
            want.append((*rows, start, begin, end, first))
    table = np.asarray(tile_table(jnp.asarray(bounds, jnp.int32), ROWS))
    np.testing.assert_array_equal(table[: len(want), :TILES], np.reshape(want, (-1, TILES)))
    assert (table[:, TILES] == len(want)).all()
    assert (table[len(want) :, 1:3] == 0).all()


def test_the_table_holds_the_most_tiles_there_can_be():
    """Segments that begin on the last row of eight and end on the first row of a tile."""
    bounds = np.cumsum([7, 122, 136, 136, 136])
    table = np.asarray(tile_table(jnp.asarray(bounds[None], jnp.int32), int(bounds[-1])))
    assert table[0, TILES] == 8
    assert (table[:8, 2] > table[:8, 1]).all()
