"""Shots of a clip and the stretches that lie within them."""

from skipsr_jax.data.source import Source


def test_stretches_lie_within_shots():
    source = Source("a", "video", 20, 32, 32, cuts=(4, 15))
    assert source.shots == [(0, 4), (4, 15), (15, 20)] and source.longest == 11
    assert source.stretches(5) == [(4, 7), (15, 1)]
    assert Source("a", "video", 20, 32, 32).stretches(5) == [(0, 16)]
    assert source.stretches(12) == []
