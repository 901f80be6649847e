"""The picture of a mask."""

import numpy as np

from skipsr_jax.media.mask_overlay import mask_overlay


def test_the_overlay_leaves_kept_pixels_alone():
    frame = np.full((30, 40, 3), 0.5, np.float32)
    keep = np.zeros((2, 3), bool)
    keep[:, 0] = True
    shown = mask_overlay(frame, keep)
    np.testing.assert_array_equal(shown[:, :16], frame[:, :16])
    assert (np.abs(shown - frame)[:, 17:].max(axis=-1) > 0.05).all()
