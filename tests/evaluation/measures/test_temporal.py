"""Metrics of time: nothing for a steady error, the right numbers for a flicker."""

import numpy as np
import pytest

from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.temporal import Flicker, TemporalPsnr


def scored(metric, errors):
    """The metric of gray frames whose error in codes is ``errors``, over a truth that moves."""
    score = metric()
    for index, error in enumerate(errors):
        truth = np.full((4, 6, 3), 100 + 5 * index, np.uint8)
        score.add(Picture(truth + np.uint8(error)), Picture(truth))
    return score.value()


def test_a_steady_error_is_no_flicker():
    assert scored(Flicker, [9, 9, 9]) == pytest.approx(0, abs=1e-9)
    assert scored(TemporalPsnr, [9, 9, 9]) == pytest.approx(80)


def test_a_flicker_counts_by_its_size():
    assert scored(Flicker, [0, 6, 0, 3]) == pytest.approx((6 + 6 + 3) / 3)
    want = np.mean([10 * np.log10(1 / ((e / 255) ** 2 + 1e-8)) for e in (6, 6, 3)])
    assert scored(TemporalPsnr, [0, 6, 0, 3]) == pytest.approx(want)


def test_one_frame_has_no_change():
    with pytest.raises(Undefined, match="two frames"):
        scored(Flicker, [1])
