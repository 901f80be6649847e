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


def test_bytes_are_drawn_as_floats_are():
    keep = np.array([[True, False, True]])
    frame = np.random.default_rng(0).integers(0, 256, (16, 40, 3), np.uint8)
    want = mask_overlay(frame / np.float32(255), keep)
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535)):
        shown = mask_overlay(frame.astype(dtype) * dtype(full // 255), keep)
        assert shown.dtype == dtype
        np.testing.assert_allclose(shown / full, want, atol=0.51 / full)
