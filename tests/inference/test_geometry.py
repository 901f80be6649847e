"""Sizes, padding and the walk of the autoencoder along time."""

import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference import geometry
from skipsr_jax.inference.settings import Size


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (Size(4.0, 0, 0), (576, 704)),
        (Size(1.5, 0, 0), (216, 264)),
        (Size(4.0, 720, 0), (720, 880)),
        (Size(4.0, 0, 352), (288, 352)),
        (Size(4.0, 100, 300), (100, 300)),
    ],
)
def test_target_size(size, want):
    assert geometry.target_size(144, 176, size) == want


def test_a_target_out_of_bounds_is_refused():
    with pytest.raises(UserError, match="20000x8"):
        geometry.target_size(2, 5000, Size(4.0, 0, 0))


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
