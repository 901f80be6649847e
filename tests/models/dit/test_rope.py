"""Rotary angles: positions counted in windows, and spread over them."""

import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.dit import rope


def test_positions_are_counted_behind_the_text():
    frequencies = rope.language_frequencies(12)
    np.testing.assert_allclose(frequencies, [1, 0.01])
    position = jnp.asarray([[[1, 2, 3]]])
    angles = rope.window_angles(position, jnp.asarray([[5]]), jnp.asarray(frequencies))
    np.testing.assert_allclose(angles[0, 0], [6, 0.06, 2, 0.02, 3, 0.03], rtol=1e-6)
    text = rope.text_angles(3, jnp.asarray(frequencies))
    np.testing.assert_allclose(text[2], [2, 0.02] * 3, rtol=1e-6)


def test_positions_are_spread_over_a_window():
    frequencies = jnp.asarray([1.0])
    position, extent = jnp.asarray([[[0, 4, 1], [0, 2, 0]]]), jnp.asarray([[[1, 5, 2]] * 2])
    angles = rope.pixel_angles(position, extent, frequencies)
    np.testing.assert_allclose(angles[0], [[-1, 1, 1], [-1, 0, -1]])
