import numpy as np
import pytest

from benchmarks.masks import blob_mask


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
