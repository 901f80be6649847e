"""PSNR and F1 by hand, and SSIM against the windowed sums written out pixel by pixel."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.evaluation import metrics


def clips(shape=(2, 13, 14, 3), seed=0):
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + rng.normal(0, 0.1, shape), 0, 1)


def ssim_of_one_plane(x, y, data_range):
    """Every 11 x 11 window by itself, weighted moments about the window's own mean."""
    line = [math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)]
    window = np.outer(line, line)
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return np.mean(values)


class TestPsnr:
    def test_constant_error(self):
        a = np.zeros((3, 4, 4, 3))
        assert metrics.psnr(a, a + 0.1) == pytest.approx(20)
        assert metrics.psnr(a, a + 25.5, data_range=255) == pytest.approx(20)

    def test_is_of_the_whole_clip(self):
        a = np.zeros((2, 4, 4, 3))
        b = a.copy()
        b[1] = 0.1
        assert metrics.psnr(a, b) == pytest.approx(20 + 10 * math.log10(2))

    def test_equal_clips(self):
        a, _ = clips()
        assert metrics.psnr(a, a) == math.inf

    def test_uint8_does_not_wrap_around(self):
        a = np.full((1, 4, 4, 3), 250, np.uint8)
        b = np.full((1, 4, 4, 3), 5, np.uint8)
        want = 20 * math.log10(255 / 245)
        assert metrics.psnr(b, a, data_range=255) == pytest.approx(want)

    def test_range_of_integers_must_be_said(self):
        a = np.zeros((1, 4, 4, 3), np.uint8)
        with pytest.raises(ValueError, match="data_range=255"):
            metrics.psnr(a, a)

    def test_shapes_must_agree(self):
        a, b = clips()
        with pytest.raises(ValueError, match="one shape"):
            metrics.psnr(a, b[:1])


class TestSsim:
    @pytest.mark.parametrize("data_range", [1.0, 255.0])
    def test_equals_the_definition(self, data_range):
        a, b = (x * data_range for x in clips())
        want = [
            np.mean([ssim_of_one_plane(x[..., c], y[..., c], data_range) for c in range(3)])
            for x, y in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(metrics.ssim_per_frame(a, b, data_range), want, rtol=1e-9)
        assert metrics.ssim(a, b, data_range) == pytest.approx(np.mean(want))

    def test_equal_frames_score_one(self):
        a, _ = clips()
        assert metrics.ssim(a, a) == pytest.approx(1)

    def test_flat_frames_leave_the_luminance_term(self):
        a = np.full((1, 11, 11, 1), 0.5)
        b = np.full((1, 11, 11, 1), 0.25)
        want = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
        assert metrics.ssim(a, b) == pytest.approx(want)

    def test_opposite_structure_is_negative(self):
        rng = np.random.default_rng(0)
        wave = 0.4 * np.sign(rng.normal(size=(1, 16, 16, 1)))
        assert metrics.ssim(0.5 + wave, 0.5 - wave) < 0

    def test_frames_under_one_window_are_refused(self):
        a, b = clips((1, 10, 20, 3))
        with pytest.raises(ValueError, match="at least 11 pixels"):
            metrics.ssim(a, b)


@pytest.mark.parametrize("xp", [np, jnp])
def test_psnr_of_errors_on_host_and_device(xp):
    found = metrics.psnr_of_mse(xp.asarray([0.01, 0.0], np.float32))
    np.testing.assert_allclose(found, [20, 100], rtol=1e-6)
    assert metrics.psnr_of_mse(xp.asarray(650.25, np.float32), 255) == pytest.approx(20)


@pytest.mark.parametrize("xp", [np, jnp])
def test_agreement_of_masks_on_host_and_device(xp):
    truth = xp.asarray([True, True, False, False])
    keep = xp.asarray([True, False, True, True])
    found = metrics.mask_agreement(keep, truth)
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.5
    assert found["f1"] == pytest.approx(2 / 5)
    nothing = truth & ~truth
    assert all(value == 1 for value in metrics.mask_agreement(nothing, nothing).values())
