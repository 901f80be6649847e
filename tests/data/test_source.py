"""Shots of a clip and the intervals that lie within them."""

from skipsr_jax.data.source import Source


def test_intervals_lie_within_shots():
    source = Source("a", "video", 20, 32, 32, cuts=(4, 15))
    assert source.shots == [(0, 4), (4, 15), (15, 20)] and source.longest == 11
    assert source.intervals(5) == [(4, 7), (15, 1)]
    assert Source("a", "video", 20, 32, 32).intervals(5) == [(0, 16)]
    assert source.intervals(12) == []
