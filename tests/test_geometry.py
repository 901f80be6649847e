"""Sizes of frames, latents and tokens, and padding."""

import numpy as np
import pytest

from skipsr_jax import geometry


@pytest.mark.parametrize("frames", range(1, 12))
def test_padded_counts_and_token_grids(frames):
    count = geometry.padded_count(frames)
    assert frames <= count < frames + 4
    assert count % 4 == 1
    assert geometry.token_grid(frames, 33, 16) == ((count + 3) // 4, 3, 1)


def test_spans_follow_one_another():
    assert geometry.spans([1, 4, 4]) == [slice(0, 1), slice(1, 5), slice(5, 9)]
    assert geometry.spans([]) == []


def test_padding_repeats_the_edge():
    frames = np.random.default_rng(0).random((6, 17, 30, 3)).astype(np.float32)
    padded = geometry.pad_space(geometry.pad_frames(frames))
    assert padded.shape == (9, 32, 32, 3)
    np.testing.assert_array_equal(padded[:6, :17, :30], frames)
    np.testing.assert_array_equal(padded[8], padded[5])
    np.testing.assert_array_equal(padded[:, 17:], np.repeat(padded[:, 16:17], 15, axis=1))
    np.testing.assert_array_equal(padded[:, :, 30:], np.repeat(padded[:, :, 29:30], 2, axis=2))
