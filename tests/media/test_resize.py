"""Resizing against jax.image.resize and against block means written by hand."""

import jax
import numpy as np
import pytest

from skipsr_jax.media.resize import area_down, resize, upscale

SIZES = [((9, 13), (36, 52)), ((16, 24), (40, 33)), ((30, 21), (17, 21)), ((5, 7), (5, 7))]


def picture(height, width, frames=2, seed=0):
    return np.random.default_rng(seed).random((frames, height, width, 3), np.float32)


@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("bicubic", jax.image.ResizeMethod.CUBIC_PYTORCH), ("bilinear", "linear")]
)
def test_equals_jax_without_antialiasing(small, large, ours, theirs):
    # jax renormalizes weights at the border instead of repeating the edge pixel: pad both.
    x = picture(*small)
    want = jax.image.resize(x, (2, *large, 3), theirs, antialias=False)
    margin = [int(np.ceil(3 * out / size)) for size, out in zip(small, large, strict=True)]
    got = resize(x, large, ours)
    inner = (slice(None), slice(margin[0], -margin[0]), slice(margin[1], -margin[1]))
    assert got.shape == want.shape and got.dtype == np.float32
    assert got[inner].size or small == (5, 7)
    np.testing.assert_allclose(got[inner], np.asarray(want)[inner], atol=2e-6)


def test_border_repeats_the_edge_pixel():
    x = picture(6, 8)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    want = resize(padded, (56, 64), "bicubic")[:, 16:-16, 16:-16]
    np.testing.assert_allclose(resize(x, (24, 32), "bicubic"), want, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_area_is_the_block_mean(factor):
    x = picture(16, 24)
    want = x.reshape(2, 16 // factor, factor, 24 // factor, factor, 3).mean((2, 4))
    np.testing.assert_allclose(area_down(x, factor), want, atol=1e-6)
    np.testing.assert_allclose(resize(x, want.shape[1:3], "area"), want, atol=1e-6)
    whole = (x * 255).astype(np.uint8)
    blocks = whole.reshape(2, 16 // factor, factor, 24 // factor, factor, 3).mean((2, 4))
    np.testing.assert_allclose(area_down(whole, factor), blocks, atol=1e-4)


def test_area_by_a_fraction_keeps_the_mean():
    x = picture(15, 10)
    assert resize(x, (6, 4), "area").mean() == pytest.approx(x.mean(), abs=1e-5)
    row = np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1)  # 0 1 2 -> cells of 1.5 pixels
    np.testing.assert_allclose(resize(row, (1, 2), "area").ravel(), [1 / 3, 5 / 3], atol=1e-6)


@pytest.mark.parametrize("method", ["area", "bilinear", "bicubic"])
def test_a_constant_stays_constant(method):
    x = np.full((1, 7, 9, 3), 0.3, np.float32)
    np.testing.assert_allclose(resize(x, (19, 4), method), 0.3, atol=1e-6)


def test_upscale_takes_bytes_and_floats_and_clips():
    x = (picture(8, 8) > 0.5).astype(np.uint8) * 255
    up = upscale(x, (32, 32))
    assert up.min() == 0.0 and up.max() == 1.0
    np.testing.assert_allclose(up, upscale(x.astype(np.float32) / 255, (32, 32)), atol=1e-6)
    np.testing.assert_allclose(up, upscale(x.astype(np.uint16) * 257, (32, 32)), atol=1e-6)


def test_refusals_name_the_numbers():
    with pytest.raises(ValueError, match="9 x 8 frames cannot be area-downsampled by 4"):
        area_down(np.zeros((1, 9, 8, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="no pixels"):
        resize(np.zeros((1, 9, 8, 3), np.float32), (0, 4))
