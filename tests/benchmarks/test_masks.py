"""Masks for benchmarks: synthetic ones, and those of real clips."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import masks
from benchmarks.masks import blob_mask, clip_masks, real_mask
from skipsr_jax.data.oracle import oracle_error, oracle_mask
from skipsr_jax.errors import UserError


@pytest.mark.parametrize("grid", [(26, 45, 80), (1, 12, 20), (3, 4, 2)])
@pytest.mark.parametrize("skip", [0.0, 0.4, 0.75])
def test_skips_the_fraction_that_is_asked_for(grid, skip):
    keep = blob_mask(grid, skip)
    assert keep.shape == grid
    assert (~keep).sum() == round(skip * keep.size)


def test_skipped_patches_lie_together():
    keep = blob_mask((8, 45, 80), 0.4, seed=3)
    alike = (keep[:, :, 1:] == keep[:, :, :-1]).mean()
    assert alike > 0.85  # 0.52 where each patch is drawn alone
    assert np.array_equal(keep, blob_mask((8, 45, 80), 0.4, seed=3))
    assert not np.array_equal(keep, blob_mask((8, 45, 80), 0.4, seed=4))


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(ValueError, match="skip is 1"):
        blob_mask((1, 2, 2), 1.0)


def write_clip(folder, seed):
    """Seven frames of 50 x 40 with noise in one corner, as a folder of pictures."""
    rng = np.random.default_rng(seed)
    frames = np.full((7, 40, 50, 3), 90, np.uint8)
    frames[:, :16, :16] = rng.integers(0, 255, (7, 16, 16, 3))
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return frames


def test_the_mask_of_a_real_clip_is_that_of_equation_1(tmp_path):
    frames, out = write_clip(tmp_path / "clip", 0), tmp_path / "mask.npy"
    assert masks.main(["masks", f"--clip={tmp_path}/clip", f"--out={out}"]) == 0
    keep = np.load(out)
    np.testing.assert_array_equal(keep, oracle_mask(frames[:5, :32, :48]))
    assert keep.shape == (2, 2, 3) and keep[:, 0, 0].all() and not keep[:, 1, 2].any()


def test_the_errors_of_several_clips_go_into_one_file(tmp_path):
    clips = {name: write_clip(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    paths, out = ",".join(str(tmp_path / name) for name in clips), tmp_path / "errors.npz"
    assert masks.main(["masks", f"--clip={paths}", f"--out={out}"]) == 0
    for name, errors in np.load(out).items():
        np.testing.assert_array_equal(errors, oracle_error(clips.pop(name)[:5, :32, :48]))
    assert not clips
    with pytest.raises(UserError, match="one mask"):
        masks.main(["masks", f"--clip={paths}", f"--out={tmp_path}/mask.npy"])
    assert not (tmp_path / "mask.npy").exists()


def test_masks_of_real_clips_skip_the_fraction_and_are_mirrored_in_time():
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
