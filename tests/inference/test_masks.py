"""The four sources of the keep mask."""

import numpy as np
import pytest

from skipsr_jax.inference import masks
from skipsr_jax.media.resize import resize


@pytest.fixture
def half_busy():
    """Frames whose right half is noise and whose left half is flat: (f, h, w, 3) in [0, 1]."""
    rng = np.random.default_rng(0)
    frames = np.full((6, 32, 48, 3), 0.5, np.float32)
    frames[:, :, 24:] = rng.random((6, 32, 24, 3))
    return frames


def test_logits_and_probability_agree():
    logits = np.linspace(-6, 6, 25, dtype=np.float32).reshape(1, 5, 5)
    for probability in (0.1, 0.5, 0.9):
        want = 1 / (1 + np.exp(-logits.astype(np.float64))) >= probability - 1e-9
        np.testing.assert_array_equal(masks.from_logits(logits, probability), want)
    assert masks.from_logits(logits, 0.0).all()
    assert not masks.from_logits(logits, 1.0).any()


def test_oracle_keeps_what_downsampling_loses(half_busy):
    keep = masks.from_reference(half_busy, 2e-4)
    assert keep.shape == (3, 2, 3)  # 6 frames -> 9 -> 3 latent frames
    np.testing.assert_array_equal(keep[:, :, 0], False)
    np.testing.assert_array_equal(keep[:, :, 1:], True)


def test_input_error_at_four_times_is_the_patch_mean(half_busy):
    """At a scale of 4 and even sizes: plain means over 4 frames x 4 x 4 pixels, written out."""
    frames = half_busy[:5]
    small = frames.reshape(5, 16, 2, 24, 2, 3).mean((2, 4))
    error = np.square(frames - resize(small, (32, 48), "bilinear")).mean(-1)
    error = error.reshape(5, 8, 4, 12, 4).mean((2, 4))
    want = np.stack([error[0], error[1:].mean(0)])
    got = masks.input_mse(frames, (128, 192))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("target", [(128, 192), (100, 170), (64, 96), (250, 390), (32, 48)])
def test_input_mask_has_the_token_grid_at_any_scale(half_busy, target):
    keep = masks.from_input(half_busy, target, 2.8e-4)
    rows, columns = -(-target[0] // 16), -(-target[1] // 16)
    assert keep.shape == (3, rows, columns)
    assert keep[:, :, -1].all()
    assert not keep[:, :, : columns // 2 - 1].any()


def test_logits_of_other_factors_have_an_offset():
    assert masks.logit_offset((180, 320), (720, 1280)) == 0
    assert masks.logit_offset((360, 640), (720, 1280)) == dict(masks.LOGIT_OFFSETS)[2.0]
    between = masks.logit_offset((240, 320), (720, 1280))  # 3 and 4: their geometric mean
    assert 0 < between < dict(masks.LOGIT_OFFSETS)[3.0]
    smallest, largest = masks.LOGIT_OFFSETS[0], masks.LOGIT_OFFSETS[-1]
    assert masks.logit_offset((64, 64), (64, 64)) == smallest[1]
    assert masks.logit_offset((16, 16), (256, 256)) == largest[1]
