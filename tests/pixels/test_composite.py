"""The last step on the device: every frame by itself, and whether all of it is finite."""

import jax
import numpy as np
import pytest

from skipsr_jax.pixels.composite import composite

HOW = {"size": (30, 40), "colour": "wavelet", "keep_skipped": True, "feather": 2}


@pytest.fixture(scope="module")
def inputs():
    """Three decoded frames in [-1, 1], the upscaled input in [0, 1], and a mask of patches."""
    rng = np.random.default_rng(0)
    decoded = rng.uniform(-1, 1, (1, 3, 32, 48, 3)).astype(np.float32)
    upscaled = rng.uniform(0, 1, decoded.shape).astype(np.float32)
    return decoded, upscaled, rng.random((3, 2, 3)) < 0.5


def test_a_slice_gives_what_its_frames_give(inputs):
    decoded, upscaled, keep = inputs
    frames, finite = composite(decoded, upscaled, keep, **HOW)
    assert finite and [frame.shape for frame in frames] == [(30, 40, 3)] * 3
    for i, frame in enumerate(frames):
        part = slice(i, i + 1)
        [alone], _ = composite(decoded[:, part], upscaled[:, part], keep[part], **HOW)
        np.testing.assert_array_equal(frame, alone)


def test_every_frame_has_to_be_finite(inputs):
    decoded, upscaled, keep = inputs
    for at in (0, 2):
        damaged = decoded.copy()
        damaged[0, at, 31, 47, 0] = np.inf  # in the padding, which is cropped
        assert not composite(damaged, upscaled, keep, **HOW)[1]


def test_a_cpu_holds_the_intermediates_of_one_frame(inputs):
    def temporary(frames):
        shapes = [np.zeros((1, frames, 96, 96, 3), np.float32)] * 2
        how = HOW | {"size": (96, 96)}
        lowered = composite.lower(*shapes, np.ones((frames, 6, 6), bool), **how)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    if jax.default_backend() != "cpu":
        pytest.skip("accelerators run all frames at once")
    assert temporary(8) < 3 * temporary(2)
