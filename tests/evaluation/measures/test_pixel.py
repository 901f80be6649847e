"""PSNR, PSNR-Y, SSIM and MS-SSIM against numbers of scikit-image 0.26 and pyiqa 0.1.16 (torch)."""

import numpy as np
import pytest
from evaluation.measures.random_networks import frames

from skipsr_jax.evaluation.measures import ms_ssim, pixel
from skipsr_jax.evaluation.measures.stream import FrameMean, Picture, Undefined

# psnr, psnr_y and ssim as scikit-image computes them (SSIM with Gaussian windows, of rounded luma),
# ms_ssim as pyiqa does, of the frames of these sizes.
EXPECTED = {
    (288, 384): (26.531919, 30.051932, 0.547246, 0.926454),
    (205, 297): (26.528305, 30.055067, 0.573994, 0.937669),
    (61, 83): (26.552062, 30.155336, 0.788980, None),
}


@pytest.mark.parametrize("size", EXPECTED)
def test_agrees_with_other_implementations(size):
    result, truth = map(Picture, frames(*size))
    psnr, psnr_y, ssim, multi_scale = EXPECTED[size]
    assert pixel.psnr(result, truth) == pytest.approx(psnr, rel=1e-5)
    assert pixel.psnr_y(result, truth) == pytest.approx(psnr_y, rel=1e-5)
    assert pixel.ssim(result, truth) == pytest.approx(ssim, rel=1e-5)
    if multi_scale is None:
        with pytest.raises(Undefined, match="161 pixels"):
            ms_ssim.ms_ssim(result, truth)
    else:
        assert ms_ssim.ms_ssim(result, truth) == pytest.approx(multi_scale, rel=2e-5)


def test_equal_frames_have_pyiqas_ceiling():
    picture = Picture(frames(24, 24)[0])
    assert pixel.psnr(picture, picture) == pytest.approx(80)
    assert pixel.ssim(picture, picture) == pytest.approx(1)


def test_sixteen_bits_are_not_rounded_to_eight():
    codes = frames(32, 32)[0].astype(np.uint16) * 257
    finer = codes.copy()
    finer[::2] += np.uint16(40)  # a sixth of a code of 8 bits
    coarse, fine = Picture(codes), Picture(finer)
    mse = (40 / 65535) ** 2 / 2
    assert pixel.psnr(fine, coarse) == pytest.approx(10 * np.log10(1 / (mse + 1e-8)))
    assert not np.array_equal(fine.luma255, coarse.luma255)
    eight = Picture((codes >> 8).astype(np.uint8))
    assert coarse.luma255 == pytest.approx(eight.luma255, abs=0.51)


def test_frames_smaller_than_a_window_have_no_ssim():
    with pytest.raises(Undefined, match="11 pixels"):
        pixel.ssim(*map(Picture, frames(10, 40)))


def test_mean_over_frames():
    score = FrameMean(lambda result, truth: float(result.codes.mean()))
    with pytest.raises(Undefined, match="no frame"):
        score.value()
    for value in (3, 6):
        score.add(Picture(np.full((2, 2, 3), value, np.uint8)), None)
    assert score.value() == 4.5
