import numpy as np
import pytest

from skipsr_jax.data.crops import ClipShape, with_contrast


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(90, 160, (5, 16, 32, 3)).astype(np.uint8)


def test_contrast_scales_differences_to_the_mean(frames):
    mean = frames.mean(axis=(0, 1, 2))
    for factor in (0.5, 1.5):
        changed = with_contrast(frames, (factor, factor), np.random.default_rng(1))
        assert changed.dtype == np.uint8
        np.testing.assert_allclose(changed, mean + factor * (frames - mean), atol=0.51)


def test_contrast_lies_between_its_bounds_and_repeats(frames):
    found = [
        with_contrast(frames, (0.5, 2.0), np.random.default_rng(seed)).std() / frames.std()
        for seed in range(40)
    ]
    assert 0.49 < min(found) < 0.7 and 1.4 < max(found) < 2.01
    assert 0.3 < np.mean([f < 1 for f in found]) < 0.7
    again = with_contrast(frames, (0.5, 2.0), np.random.default_rng(0)).std() / frames.std()
    assert again == found[0]


@pytest.mark.parametrize("height, frames", [(15, 5), (16, 4)])
def test_shapes_are_checked(height, frames):
    with pytest.raises(ValueError, match=r"multiples of 16|4k"):
        ClipShape(1, frames, height, 16)
