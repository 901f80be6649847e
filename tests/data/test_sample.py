"""Samples: factors, what the low-quality frames are, and masks of what was degraded."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.degradation.degrade import degraded
from skipsr_jax.data.degradation.levels import RealWorld, Round
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.sample import Recipe, make_sample
from skipsr_jax.media.resize import upscale
from skipsr_jax.tokens.criterion import TAU

SHAPE = ClipShape(1, 5, 48, 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A smooth picture, all of which a clean reduction lets skip."""
    root = tmp_path_factory.mktemp("picture")
    y, x = np.mgrid[:96, :128]
    Image.fromarray(np.stack([x, y + 60, x // 2 + y], -1).astype(np.uint8)).save(root / "a.png")
    return find_sources((str(root),))[0]


def sample(source, seed=0, **changes):
    recipe = Recipe(SHAPE, None, masks=True, **changes)
    return make_sample(source, np.random.default_rng(seed), SHAPE, recipe)


def test_factors_are_mixed_at_one_size(source):
    factors = ((4.0, 1.0), (2.0, 1.0), (1.5, 1.0), (1.0, 1.0))
    errors = []
    for seed in range(12):
        made = sample(source, seed, factors=factors)
        assert made.lr.shape == made.hr.shape == (5, 48, 64, 3)
        errors.append(np.abs(made.lr.astype(int) - made.hr).max())
        assert not made.mask.any()
    assert min(errors) == 0 < max(errors)  # factor 1 of clean frames gives the frames themselves


def test_the_upscaled_input_is_that_of_inference_rounded(source):
    made = sample(source, factors=((2.0, 1.0), (2.0, 1.0)))
    small = degraded(made.hr, 2, "area", np.random.default_rng(0))
    wanted = 255 * upscale(small, (48, 64))
    np.testing.assert_allclose(made.lr, wanted, atol=0.51)


def test_one_factor_keeps_the_size_of_the_input(source):
    assert sample(source, factors=((2.0, 1.0),)).lr.shape == (5, 24, 32, 3)
    several = ((4.0, 1.0), (4.0, 1.0))
    assert sample(source, factors=several, one_size=False).lr.shape == (5, 12, 16, 3)


@pytest.mark.parametrize("factors", [(), ((1.0, 1.0),), ((4.0, 1.0), (2.0, 1.0), (1.0, 1.0))])
def test_heavy_noise_is_not_skippable(source, factors):
    calm = Round(blur_share=0.0, resize=(1.0, 1.0), noise_share=0.0, jpeg_share=0.0)
    noisy = dataclasses.replace(calm, noise_share=1.0, poisson_share=0.0, noise_sigma=(15.0, 20.0))
    for seed in range(4):
        heavy = RealWorld(first=calm, second=noisy, video_share=0.0)
        made = sample(source, seed, degradation=heavy, factors=factors)
        assert made.mask.mean() > 0.95
        clean = sample(source, seed, degradation="area", factors=factors)
        assert not clean.mask.any() and clean.error.max() < TAU
