"""Resizing on the device gives what resizing on the host gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.geometry import pad_space
from skipsr_jax.media import resize
from skipsr_jax.pixels.resample import bicubic_weights, pad_to_patches, to_unit_range, upscale


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("target", [(40, 56), (33, 17), (10, 14)])
def test_upscaling_is_that_of_the_host(dtype, target):
    full = np.iinfo(dtype).max
    frames = np.random.default_rng(0).integers(0, full, (2, 10, 14, 3), dtype, endpoint=True)
    made = upscale(jnp.asarray(frames), *bicubic_weights((10, 14), target))
    assert made.shape == (2, *target, 3)
    np.testing.assert_allclose(made, resize.upscale(frames, target), atol=2e-6)


def test_the_weights_sum_to_one():
    for matrix, shape in zip(bicubic_weights((5, 7), (20, 9)), [(20, 5), (9, 7)], strict=True):
        assert matrix.shape == shape
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_bytes_fill_the_unit_range():
    for dtype in (np.uint8, np.uint16):
        ends = jnp.asarray([0, np.iinfo(dtype).max], dtype)
        np.testing.assert_array_equal(to_unit_range(ends), [0, 1])


@pytest.mark.parametrize("size", [(16, 32), (17, 31), (1, 1)])
def test_padding_is_that_of_the_host(size):
    frames = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(pad_to_patches(jnp.asarray(frames)), pad_space(frames))
