"""Masks from real errors, as long as the clip and with the share that is asked for."""

import numpy as np
import pytest

from benchmarks.vae_sparse import clip_masks, real_mask


def test_masks_skip_the_share_and_go_back_and_forth_in_time():
    errors = np.random.default_rng(0).random((3, 10, 20))
    keep = real_mask(errors, (7, 10, 20), 0.4)
    assert abs(1 - keep.mean() - 0.4) < 0.01
    for frame, same in ((3, 1), (4, 0), (5, 1), (6, 2)):
        np.testing.assert_array_equal(keep[frame], keep[same])
    assert real_mask(errors, (2, 10, 20), 0.0).all()
    with pytest.raises(ValueError, match=r"\(10, 20\) patches do not fit a grid of \(2, 9, 20\)"):
        real_mask(errors, (2, 9, 20), 0.4)


def test_one_mask_a_clip(tmp_path):
    errors = np.random.default_rng(0).random((3, 4, 5))
    np.savez(tmp_path / "errors.npz", one=errors, other=errors[::-1])
    masks = clip_masks((3, 4, 5), 0.5, str(tmp_path / "errors.npz"))
    assert set(masks) == {"one", "other"}
    np.testing.assert_array_equal(masks["one"], masks["other"][::-1])
    assert set(clip_masks((3, 4, 5), 0.5, None)) == {"blobs"}
