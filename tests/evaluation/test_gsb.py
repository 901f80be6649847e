"""The preference of viewers and its interval."""

import itertools

import numpy as np
import pytest

from skipsr_jax.evaluation.gsb import Answer, preference


def study(values):
    """Answers of a table (viewers, clips)."""
    return [
        Answer(f"v{i}", f"c{j}", int(value)) for (i, j), value in np.ndenumerate(np.asarray(values))
    ]


def test_the_score_is_good_minus_bad_over_all():
    found = preference(study([[1, 1, 0, -1, 1], [0, 0, -1, 1, 1]]))
    assert (found.good, found.same, found.bad) == (5, 3, 2)
    assert found.score == pytest.approx(0.3) and (found.viewers, found.clips) == (2, 5)
    assert found.low < 0.3 < found.high


def test_one_viewer_gives_the_interval_of_a_bootstrap_of_clips():
    """All resamples of 4 clips, which can be listed."""
    values = [1, 1, 0, -1]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
    found = preference(study([values]), draws=40000)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_the_interval_holds_the_true_value_as_often_as_it_says():
    """Viewers and clips have tastes of their own; the mean over all of them is known to be 0."""
    rng, hits, runs = np.random.default_rng(0), 0, 150
    for _ in range(runs):
        viewer, clip = rng.normal(0, 0.4, (8, 1)), rng.normal(0, 0.6, (1, 12))
        values = np.sign(np.trunc(1.3 * (viewer + clip + rng.normal(0, 0.8, (8, 12)))))
        found = preference(study(values), draws=400)
        hits += found.low <= 0 <= found.high
    assert hits / runs > 0.92


def test_all_alike_leaves_no_doubt_and_gaps_are_allowed():
    found = preference(study([[1, 1], [1, 1]]))
    assert (found.low, found.score, found.high) == (1, 1, 1)
    found = preference([Answer("v", "a", 1), Answer("w", "b", -1)])
    assert found.score == 0 and found.low == -1 and found.high == 1


def test_a_second_answer_is_refused():
    with pytest.raises(ValueError, match="two answers of v to a"):
        preference([Answer("v", "a", 1), Answer("v", "a", 1)])
    with pytest.raises(ValueError, match="no answer"):
        preference([])
