"""Crispness of softened and sharpened frames."""

import numpy as np
import pytest

from skipsr_jax.evaluation.measures.crispness import crispness
from skipsr_jax.evaluation.measures.registry import METRICS
from skipsr_jax.evaluation.measures.stream import Picture, Undefined


def row(*values):
    return Picture(
        np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2).repeat(2, axis=0)
    )


def test_it_is_the_ratio_of_mean_differences():
    truth = row(10, 30, 10, 30)
    assert crispness(truth, truth) == pytest.approx(1)
    assert crispness(row(15, 25, 15, 25), truth) == pytest.approx(0.5)
    assert crispness(row(0, 40, 10, 30), truth) == pytest.approx((40 + 30 + 20) / 60)
    assert "crispness" in METRICS


def test_a_flat_truth_has_none():
    for flat in (row(7, 7, 7), row(7)):
        with pytest.raises(Undefined, match="no horizontal differences"):
            crispness(flat, flat)
