import numpy as np
import pytest

from skipsr_jax.tokens.criterion import cover, dilate, needs_refinement, patch_mse


def test_the_first_patch_covers_one_frame_and_the_others_four():
    frames = np.zeros((9, 32, 48, 3), np.float32)
    rebuilt = frames.copy()
    rebuilt[0, :16, :16] = 0.1  # the whole first patch
    rebuilt[4, 16:, 32:] = 0.1  # one of the four frames of the second
    rebuilt[5, :16, 16:32, 0] = 0.1  # one of four frames and one of three channels of the third
    mse = patch_mse(frames, rebuilt)
    want = np.zeros((3, 2, 3))
    want[0, 0, 0], want[1, 1, 2], want[2, 0, 1] = 0.01, 0.01 / 4, 0.01 / 12
    np.testing.assert_allclose(mse, want, atol=1e-8)


def test_a_patch_at_the_threshold_is_skippable():
    mse = np.array([[[1e-4, 2e-4, 3e-4]]], np.float32)
    assert needs_refinement(mse, tau=float(mse[0, 0, 1])).tolist() == [[[False, False, True]]]


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="8 frames of 16x16"):
        patch_mse(np.zeros((8, 16, 16, 3), np.float32), np.zeros((8, 16, 16, 3), np.float32))
    with pytest.raises(ValueError, match="multiples of 16"):
        patch_mse(np.zeros((5, 16, 24, 3), np.float32), np.zeros((5, 16, 24, 3), np.float32))


def test_dilation_grows_a_square_and_stays_in_its_frame():
    keep = np.zeros((2, 5, 7), bool)
    keep[0, 2, 0] = True
    grown = dilate(keep, 1)
    assert grown[0, 1:4, :2].all() and grown.sum() == 6
    np.testing.assert_array_equal(dilate(keep, 0), keep)


def test_cells_cover_their_part_of_an_axis():
    """Three cells of 8 output pixels, of which 20 exist, over 5 input pixels: 2, 2 and 1."""
    want = [[1 / 2, 1 / 2, 0, 0, 0], [0, 0, 1 / 2, 1 / 2, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(cover(3, 8, 5, 20), want, atol=1e-6)
    beyond = cover(4, 8, 5, 20)
    np.testing.assert_array_equal(beyond[3], beyond[2])
    parts = cover(2, 8, 3, 16)  # 1.5 input pixels each
    np.testing.assert_allclose(parts, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-6)
