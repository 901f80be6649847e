"""Tiles of the GPU kernels, against a loop over the segments."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.varlen_attention.tiles import TILE_ROWS, tiles_of

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
    want = []
    for pack, cu in enumerate(bounds):
        for start, end in itertools.pairwise(np.asarray(cu) + ROWS * pack):
            first = len(want)
            for row in range(start, end, TILE_ROWS):
                want.append((row, min(TILE_ROWS, end - row), start, end - start, first))
    table = np.asarray(tiles_of(jnp.asarray(bounds, jnp.int32), ROWS))
    np.testing.assert_array_equal(table[: len(want)], np.reshape(want, (-1, 5)))
    assert (table[len(want) :, 1] == 0).all()


def test_the_table_holds_the_most_tiles_there_can_be():
    """One row more than whole tiles in each of four segments."""
    cu = jnp.asarray([[0, 129, 258, 387, 516]], jnp.int32)
    assert (np.asarray(tiles_of(cu, 516))[:, 1] > 0).all()
