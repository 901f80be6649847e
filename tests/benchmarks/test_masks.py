"""Masks for benchmarks: synthetic ones, and those of real clips."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import masks
from benchmarks.masks import blob_mask
from skipsr_jax.data.degrade import oracle_mask


@pytest.mark.parametrize("grid", [(26, 45, 80), (1, 12, 20), (3, 4, 2)])
@pytest.mark.parametrize("skip", [0.0, 0.4, 0.75])
def test_skips_the_share_that_is_asked_for(grid, skip):
    keep = blob_mask(grid, skip)
    assert keep.shape == grid
    assert (~keep).sum() == round(skip * keep.size)


def test_skipped_patches_lie_together():
    keep = blob_mask((8, 45, 80), 0.4, seed=3)
    alike = (keep[:, :, 1:] == keep[:, :, :-1]).mean()
    assert alike > 0.85  # 0.52 where each patch is drawn alone
    assert np.array_equal(keep, blob_mask((8, 45, 80), 0.4, seed=3))
    assert not np.array_equal(keep, blob_mask((8, 45, 80), 0.4, seed=4))


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="skip is 1"):
        blob_mask((1, 2, 2), 1.0)


def test_the_mask_of_a_real_clip_is_that_of_equation_1(tmp_path):
    rng = np.random.default_rng(0)
    frames = np.full((7, 40, 50, 3), 90, np.uint8)
    frames[:, :16, :16] = rng.integers(0, 255, (7, 16, 16, 3))
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    out = tmp_path / "mask.npy"
    assert masks.main(["masks", f"--clip={tmp_path}/clip", f"--out={out}"]) == 0
    keep = np.load(out)
    np.testing.assert_array_equal(keep, oracle_mask(frames[:5, :32, :48]))
    assert keep.shape == (2, 2, 3) and keep[:, 0, 0].all() and not keep[:, 1, 2].any()
