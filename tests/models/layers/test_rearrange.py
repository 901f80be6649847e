"""Pixels and frames as channels, and back."""

import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.layers import rearrange


def test_space_to_depth_reads_row_by_row():
    x = jnp.arange(16.0).reshape(1, 1, 4, 4, 1)
    np.testing.assert_array_equal(rearrange.space_to_depth(x, 2)[0, 0, 0, 1], [2, 3, 6, 7])


def test_time_to_depth_keeps_the_order():
    x = jnp.arange(8.0).reshape(1, 4, 1, 1, 2)
    np.testing.assert_array_equal(rearrange.time_to_depth(x, 2)[0, 1, 0, 0], [4, 5, 6, 7])


def test_inverses():
    x = jnp.arange(2.0 * 6 * 4 * 8 * 3).reshape(2, 6, 4, 8, 3)
    there = rearrange.space_to_depth(x, 4)
    np.testing.assert_array_equal(rearrange.depth_to_space(there, 4), x)
    there = rearrange.time_to_depth(x, 3)
    np.testing.assert_array_equal(rearrange.depth_to_time(there, 3), x)
