"""When frames are shown: a stated rate if it explains all time stamps, else the time stamps."""

from fractions import Fraction

import numpy as np
import pytest

from skipsr_jax.media.timing import timing_of

TICK, NTSC = Fraction(1, 1000), Fraction(30000, 1001)


def test_a_rate_explains_time_stamps_that_are_rounded_to_the_time_base():
    ticks = [1000 + round(i / NTSC / TICK) for i in range(90)]
    timing = timing_of(ticks[::-1], TICK, [Fraction(25), NTSC], trusted=True)
    assert (timing.rate, timing.is_constant, timing.times) == (NTSC, True, None)
    assert timing.start == 1
    np.testing.assert_array_equal(timing.ticks, ticks)


def test_time_stamps_that_no_rate_explains_are_kept():
    timing = timing_of([40, 0, 100], TICK, [Fraction(25)], trusted=True)
    assert not timing.is_constant and timing.rate == 25
    assert timing.times == (0, Fraction(40, 1000), Fraction(1, 10))
    assert [timing.frames_before(tick) for tick in (0, 39, 40, 100, 101, None)] == [
        0,
        1,
        1,
        2,
        3,
        0,
    ]


@pytest.mark.parametrize(("ticks", "trusted"), [([0, 1, 1], True), ([0, None], True), ([0], False)])
def test_time_stamps_that_cannot_be_trusted_are_dropped(ticks, trusted):
    timing = timing_of(ticks, TICK, [], trusted=trusted)
    assert timing.ticks is None and timing.is_constant and timing.rate == 25
    assert timing.start == 0 and timing.frames_before(7) == 0
