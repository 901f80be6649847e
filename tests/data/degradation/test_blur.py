"""Blur kernels by their definitions, and the convolution against plain sums."""

import math

import numpy as np
import pytest

from skipsr_jax.data.degradation.blur import bessel_j1, convolve, gaussian, sinc


def test_bessel_function_has_its_tabulated_values():
    # Abramowitz & Stegun, table 9.1; the third is the first zero.
    got = bessel_j1(np.array([0.0, 1.0, 3.8317059702, 10.0]))
    np.testing.assert_allclose(got, [0, 0.4400505857, 0, 0.0434727462], atol=1e-9)


@pytest.mark.parametrize("sigmas", [(1.5, 1.5), (3.0, 0.8)])
def test_gaussian_has_the_moments_asked_for(sigmas):
    angle = 0.6
    kernel = gaussian(16, *sigmas, angle).astype(np.float64)
    steps = np.arange(-16, 17)
    x, y = np.meshgrid(steps, steps)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    want = turn @ np.diag(np.square(sigmas)) @ turn.T
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(moments, want, rtol=0.02, atol=0.02)
    assert kernel.sum() == pytest.approx(1)


def test_sinc_passes_slow_waves_and_stops_fast_ones_and_rings():
    kernel = sinc(20, math.pi / 3)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    response = np.abs(np.fft.fft2(kernel, (240, 240)))[0]  # step: 2 pi / 240 per bin
    assert abs(response[:28] - 1).max() < 0.15 and response[60:120].max() < 0.1
    edge = np.zeros((1, 60, 60, 3), np.float32)
    edge[:, :, 30:] = 200
    assert convolve(edge, kernel).max() > 208  # overshoot that no Gaussian makes
    assert convolve(edge, gaussian(20, 2.0, 2.0, 0.0)).max() < 200.01


def test_convolution_is_the_sum_over_shifted_pictures():
    rng = np.random.default_rng(0)
    frames = rng.uniform(0, 255, (2, 13, 17, 3)).astype(np.float32)
    kernel = rng.uniform(0, 1, (5, 5)).astype(np.float32)  # lopsided: a flip would show
    padded = np.pad(frames, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
    want = sum(
        kernel[i, j] * padded[:, 4 - i : 4 - i + 13, 4 - j : 4 - j + 17]
        for i in range(5)
        for j in range(5)
    )
    np.testing.assert_allclose(convolve(frames, kernel), want, rtol=1e-4)


def test_refusals():
    with pytest.raises(ValueError, match="cutoff 4"):
        sinc(3, 4.0)
    with pytest.raises(ValueError, match="sigmas"):
        gaussian(3, 0.0, 1.0, 0.0)
