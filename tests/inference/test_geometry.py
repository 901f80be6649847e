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
@pytest.mark.parametrize("per_slice", [1, 2, 5])
def test_slices_cover_time_once(frames, per_slice):
    count = geometry.padded_count(frames)
    assert count >= frames
    assert count % 4 == 1
    grid = geometry.token_grid(frames, 33, 16)
    assert grid == ((count + 3) // 4, 3, 1)
    walk = geometry.slices(grid[0], per_slice)
    pixels = [i for pixel, _ in walk for i in range(count)[pixel]]
    latents = [i for _, latent in walk for i in range(grid[0])[latent]]
    assert pixels == list(range(count))
    assert latents == list(range(grid[0]))
    for pixel, latent in walk[1:]:
        assert pixel.stop - pixel.start == 4 * (latent.stop - latent.start)


def test_padding_repeats_the_edge():
    frames = np.random.default_rng(0).random((6, 17, 30, 3)).astype(np.float32)
    padded = geometry.pad_space(geometry.pad_frames(frames))
    assert padded.shape == (9, 32, 32, 3)
    np.testing.assert_array_equal(padded[:6, :17, :30], frames)
    np.testing.assert_array_equal(padded[8], padded[5])
    np.testing.assert_array_equal(padded[:, 17:], np.repeat(padded[:, 16:17], 15, axis=1))
    np.testing.assert_array_equal(padded[:, :, 30:], np.repeat(padded[:, :, 29:30], 2, axis=2))
