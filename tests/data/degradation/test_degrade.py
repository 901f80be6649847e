"""Mixtures of degradations, and factors that need not divide the sides."""

import numpy as np
import pytest

from skipsr_jax.data.degradation.degrade import Mixture, degraded, drawn_kind, low_size
from skipsr_jax.data.degradation.levels import LEVELS


def picture(height=48, width=64):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def test_a_mixture_draws_its_kinds_as_often_as_stated():
    mixture = Mixture(("area", "bicubic", LEVELS["hard"]), (1.0, 2.0, 1.0))
    rng = np.random.default_rng(0)
    drawn = [drawn_kind(mixture, rng) for _ in range(400)]
    assert [80 < drawn.count(kind) < 120 for kind in mixture.kinds] == [True, False, True]
    assert 170 < drawn.count("bicubic") < 230
    assert drawn_kind("area", rng) == "area"


def test_sizes_are_exact_for_whole_numbers_and_rounded_for_others():
    assert low_size((48, 64), 4) == (12, 16)
    assert low_size((48, 64), 1.5) == (32, 43) and low_size((2, 2), 16.0) == (1, 1)
    for size, scale in (((48, 63), 4), ((48, 64), 0.5)):
        with pytest.raises(ValueError, match="multiples"):
            low_size(size, scale)


@pytest.mark.parametrize("kind", ["area", "bilinear", "bicubic", *LEVELS.values()])
@pytest.mark.parametrize("scale", [1.0, 2.5, 4])
def test_every_kind_makes_every_size(kind, scale):
    frames = picture()
    small = degraded(frames, scale, kind, np.random.default_rng(0))
    assert small.shape == (1, *low_size((48, 64), scale), 3) and small.dtype == np.uint8
    if scale == 1.0 and isinstance(kind, str):
        np.testing.assert_array_equal(small, frames)  # restoration of clean input: nothing to do


def test_levels_rise_from_light_to_hard():
    frames = np.repeat(np.kron(picture(6, 8)[0], np.ones((8, 8, 1), np.uint8))[None], 5, axis=0)
    clean = degraded(frames, 2, "area", np.random.default_rng(0)).astype(float)

    def error(level):
        made = [degraded(frames, 2, level, np.random.default_rng(i)) for i in range(6)]
        return np.median([np.abs(x - clean).mean() for x in made])

    light, medium, hard = map(error, LEVELS.values())
    assert 0 < light < medium < hard
