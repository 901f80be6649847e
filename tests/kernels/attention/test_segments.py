"""Row bounds, against a loop over the segments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.attention.segments import row_bounds


@pytest.mark.parametrize(
    "bounds",
    [[0, 3, 7, 7, 7], [0, 0, 0, 4, 10], [0, 10, 10, 10, 10], [0, 0, 0, 0, 0], [2, 5, 5, 6, 9]],
)
def test_bounds_of_each_row(bounds):
    rows = 10
    want = np.zeros((rows, 3), int)
    for start, end in itertools.pairwise(bounds):
        want[start:end] = start, end, 1
    got = row_bounds(jnp.asarray([bounds], jnp.int32), rows)
    np.testing.assert_array_equal(np.stack([np.asarray(x[0]) for x in got], axis=1), want)


def test_bounds_of_rows_take_no_loop():
    """A search would be one, of many small kernels, in every layer."""
    cu = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    program = jax.jit(lambda cu: row_bounds(cu, 100)).trace(cu)
    assert "stablehlo.while" not in program.lower(lowering_platforms=("cuda",)).as_text()
