"""Noise by its statistics."""

import numpy as np
import pytest

from skipsr_jax.data.degradation.noise import add_gaussian, add_poisson

FRAMES = np.full((3, 64, 64, 3), 100, np.float32)
FRAMES[:, :, 32:] = 200


@pytest.mark.parametrize("gray", [True, False])
def test_gaussian_noise_is_as_strong_as_asked(gray):
    noise = add_gaussian(FRAMES, 8.0, gray, np.random.default_rng(0)) - FRAMES
    assert noise.std() == pytest.approx(8, rel=0.03) and abs(noise.mean()) < 0.2
    assert (np.ptp(noise, axis=-1).max() < 1e-4) == gray
    assert not np.array_equal(noise[0], noise[1])


@pytest.mark.parametrize("gray", [True, False])
def test_shot_noise_grows_with_the_root_of_the_light(gray):
    photons = 400.0
    noise = add_poisson(FRAMES, photons, gray, np.random.default_rng(0)) - FRAMES
    for half, value in ((noise[:, :, :32], 100), (noise[:, :, 32:], 200)):
        want = 255 * np.sqrt(value / 255 / photons)
        assert half.std() == pytest.approx(want, rel=0.04) and abs(half.mean()) < 0.4
    assert (np.ptp(noise, axis=-1).max() < 1e-3) == gray
    assert not np.array_equal(noise[0], noise[1])
