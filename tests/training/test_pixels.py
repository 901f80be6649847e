"""Pixels of a batch: ranges, the upscaled input, what patches cover, and PSNR."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.media import resize
from skipsr_jax.training import pixels


def test_bytes_and_the_two_ranges():
    frames = jnp.asarray(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1))
    signed = pixels.signed(frames)
    assert signed.min() == -1 and signed.max() == 1
    np.testing.assert_allclose(pixels.unit(signed), frames / 255.0, atol=1e-6)
    assert pixels.unit(jnp.full((1, 1, 1, 1, 3), 1.5)).max() == 1


def test_the_upscaled_input_is_that_of_inference():
    frames = np.random.default_rng(0).integers(0, 255, (2, 6, 10, 3), dtype=np.uint8)
    want = np.asarray(resize.upscale(frames, (24, 40)))
    found = pixels.unit(pixels.upscaled(jnp.asarray(frames[None]), (24, 40)))[0]
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_the_first_patch_covers_one_frame_and_later_ones_four():
    mask = np.zeros((1, 3, 2, 2), bool)
    mask[0, 0, 1, 0] = mask[0, 2, 0, 1] = True
    covered = np.asarray(pixels.patches_to_pixels(jnp.asarray(mask)))[0, ..., 0]
    assert covered.shape == (9, 2 * PATCH_PIXELS, 2 * PATCH_PIXELS)
    assert covered[0, PATCH_PIXELS:, :PATCH_PIXELS].all()
    assert covered[5:, :PATCH_PIXELS, PATCH_PIXELS:].all()
    assert covered.sum() == (1 + 4) * PATCH_PIXELS**2


def test_psnr_of_each_clip_over_the_pixels_with_weight():
    truth = jnp.zeros((3, 1, 4, 4, 3))
    frames = truth.at[0].add(0.2).at[1, :, :2].add(0.2)
    weight = jnp.zeros((3, 1, 4, 4, 1), bool).at[:2, :, :2].set(True)
    assert pixels.psnr(frames, truth)[0] == pytest.approx(20, abs=1e-3)
    np.testing.assert_allclose(pixels.psnr(frames, truth, weight), [20, 20, 100], atol=1e-3)
    assert pixels.psnr(frames, truth)[1] == pytest.approx(20 + 10 * np.log10(2), abs=1e-3)
