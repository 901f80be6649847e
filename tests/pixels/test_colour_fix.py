"""The colour fix: casts go, details stay, frames do not mix, any size."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.pixels.colour_fix import METHODS, fix_colour, smooth

FIXES = [m for m in METHODS if m != "none"]


def pictures(shape=(2, 3, 33, 47, 3), seed=0):
    """A reference, and detail that lives on every other pixel only."""
    rng = np.random.default_rng(seed)
    reference = jnp.asarray(rng.uniform(-0.6, 0.6, size=shape), jnp.float32)
    checker = (-1.0) ** np.add.outer(np.arange(shape[-3]), np.arange(shape[-2]))
    return reference, jnp.asarray(0.1 * checker[..., None], jnp.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 3, 33, 47, 3), (1, 5, 7, 3), (16, 16, 3), (4, 1, 1, 3)])
def test_equal_pictures_stay_as_they_are(method, shape):
    reference, _ = pictures(shape)
    np.testing.assert_allclose(fix_colour(reference, reference, method), reference, atol=1e-5)


@pytest.mark.parametrize("method", FIXES)
def test_a_constant_cast_is_removed(method):
    reference, _ = pictures()
    cast = jnp.asarray([0.3, -0.2, 0.05])
    np.testing.assert_allclose(
        fix_colour(reference + cast, reference, method), reference, atol=1e-5
    )
    none = fix_colour(reference + cast, reference, "none")
    np.testing.assert_array_equal(none, reference + cast)


def test_adain_removes_a_change_of_contrast():
    reference, _ = pictures()
    got = fix_colour(reference * 0.5 - 0.1, reference, "adain")
    np.testing.assert_allclose(got, reference, atol=1e-4)


def test_wavelet_takes_the_slow_part_and_keeps_the_fast_one():
    flat = jnp.zeros((1, 64, 64, 3))
    _, detail = pictures((1, 64, 64, 3))
    got = fix_colour(flat + 0.4 + detail, flat, "wavelet")
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(got[inside], jnp.broadcast_to(detail, got.shape)[inside], atol=5e-3)


def test_wavelet_ignores_detail_of_the_reference():
    frames, detail = pictures((1, 64, 64, 3))
    got = fix_colour(frames, frames + detail, "wavelet")
    np.testing.assert_allclose(got[:, 2:-2, 2:-2], frames[:, 2:-2, 2:-2], atol=5e-3)


def test_the_band_is_a_weighted_mean():
    """Weights of each level by hand, on an impulse far from the border."""
    impulse = jnp.zeros((9, 9, 3)).at[4, 4].set(1.0)
    one = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_allclose(smooth(impulse, 1)[3:6, 3:6, 0], one, atol=1e-7)
    line = np.convolve([1, 2, 1], [1, 0, 2, 0, 1]) / 16
    np.testing.assert_allclose(smooth(impulse, 2)[1:8, 1:8, 1], np.outer(line, line), atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_slices_of_a_clip_give_the_same(method):
    reference, detail = pictures()
    frames = reference[::-1] * 0.8 + detail
    whole = fix_colour(frames, reference, method)
    parts = [fix_colour(frames[:, i : i + 1], reference[:, i : i + 1], method) for i in range(3)]
    np.testing.assert_allclose(whole, jnp.concatenate(parts, axis=1), atol=1e-6)


@pytest.mark.parametrize("method", FIXES)
def test_flat_frames_give_finite_colours(method):
    reference, _ = pictures()
    assert bool(jnp.isfinite(fix_colour(jnp.zeros_like(reference), reference, method)).all())


def test_bad_arguments_are_named():
    reference, _ = pictures()
    with pytest.raises(ValueError, match=r"'lab'; choose one of wavelet"):
        fix_colour(reference, reference, "lab")
    with pytest.raises(ValueError, match="one shape"):
        fix_colour(reference, reference[:1], "adain")
