"""Rows of the quality table: what masks skip, and what that loses."""

import numpy as np
import pytest

from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.oracle import oracle_mask
from skipsr_jax.evaluation import quality
from skipsr_jax.media.resize import resize


@pytest.fixture(scope="module")
def truth():
    """5 frames, the right half busy: (5, 32, 48, 3) bytes."""
    rng = np.random.default_rng(0)
    frames = np.full((5, 32, 48, 3), 90, np.uint8)
    frames[:, :, 32:] = rng.integers(0, 255, (5, 32, 16, 3))
    return frames


def test_agreement_counts_kept_patches():
    oracle = np.array([[[True, True, False, False]]])
    keep = np.array([[[True, False, True, True]]])
    found = quality.mask_scores(keep, oracle, np.zeros(keep.shape, np.float32))
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.5
    assert found["f1"] == pytest.approx(2 / 5) and found["skip"] == 0.25
    nothing = np.zeros_like(keep)
    found = quality.mask_scores(nothing, nothing, np.zeros(keep.shape, np.float32))
    assert found["precision"] == found["recall"] == found["f1"] == 1
    assert found["psnr_skipped"] == 100


def test_skipped_pixels_weigh_as_many_frames_as_they_are(truth):
    """The PSNR over the pixels themselves."""
    keep = np.zeros((2, 2, 3), bool)
    keep[1] = oracle_mask(truth)[1]
    small = low_quality(truth, 4)
    row = quality.row("clip", truth, 4, truth / np.float32(255), keep, training_free=~keep)
    upscaled = resize(small / np.float32(255), (32, 48), "bilinear")
    of_frame = keep[[0, 1, 1, 1, 1]].repeat(16, axis=1).repeat(16, axis=2)
    error = np.square(upscaled - truth / 255.0)[~of_frame].mean()
    assert row["psnr_skipped"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert row["oracle"]["psnr_skipped"] > 40 > row["psnr_skipped"]
    assert row["training_free"]["skip"] == pytest.approx(1 - row["skip"])


def test_means_and_lines_hold_every_column(truth):
    frames, keep = truth / np.float32(255), oracle_mask(truth)
    rows = [quality.row(name, truth, 4, frames, keep, frames, ~keep) for name in "ab"]
    (mean,) = quality.means(rows)
    assert mean["f1"] == 1 and mean["training_free"]["f1"] == 0
    assert mean["skip"] == mean["skip_oracle"] == rows[0]["oracle"]["skip"]
    for found in (*rows, mean):
        assert quality.line(found).split()[-1] == f"{found['training_free']['psnr_skipped']:.2f}"
    assert quality.line(mean).startswith("mean of 2 clips")
    (one,) = quality.means(rows[:1])
    assert quality.line(one).startswith("mean of 1 clip ") and one["kind"] == "clip"
