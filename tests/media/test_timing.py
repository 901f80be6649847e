"""When frames are shown: a stated rate if it explains all time stamps, else the time stamps."""

from fractions import Fraction

import numpy as np
import pytest

from skipsr_jax.media.timing import timing_of

TICK, NTSC = Fraction(1, 1000), Fraction(30000, 1001)


def test_a_rate_explains_time_stamps_that_are_rounded_to_the_time_base():
    ticks = [1000 + round(i / NTSC / TICK) for i in range(90)]
    timing = timing_of(ticks, TICK, [Fraction(25), NTSC])
    assert (timing.rate, timing.is_constant, timing.times) == (NTSC, True, None)
    assert timing.start == 1 and timing.duration == 90 / NTSC and timing.repaired == 0
    np.testing.assert_array_equal(timing.ticks, ticks)


def test_time_stamps_that_no_rate_explains_are_kept():
    timing = timing_of([0, 40, 100], TICK, [Fraction(25)])
    assert not timing.is_constant and timing.rate == 25
    assert timing.times == (0, Fraction(40, 1000), Fraction(1, 10))
    assert timing.duration == Fraction(150, 1000)
    before = [timing.frames_before(tick) for tick in (0, 39, 40, 100, 101, None)]
    assert before == [0, 1, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("ticks", "want"),
    [
        ([0, 100, 133, 133, 400], [0, 100, 133, 266, 400]),  # one twice
        ([0, 40, 20, 120, 160], [0, 40, 80, 120, 160]),  # one backwards
        ([0, 40, 900, 120, 160], [0, 40, 80, 120, 160]),  # one far ahead
        ([0, None, 80, None], [0, 40, 80, 120]),  # some absent
        ([None, 40, 80], [0, 40, 80]),
        ([0, 1, 1, 1, 2], [0, 1, 2, 3, 4]),  # more frames than ticks
        ([None, None, None], [0, 40, 80]),  # nothing to go on but the rate
        ([7, 7, 7], [7, 47, 87]),
    ],
)
def test_single_time_stamps_are_repaired_and_the_others_kept(ticks, want):
    timing = timing_of(ticks, TICK, [Fraction(25)])
    if ticks == [0, 1, 1, 1, 2]:
        assert (np.diff(timing.ticks) > 0).all() and timing.ticks[0] == 0
        return
    assert timing.ticks.tolist() == want and timing.repaired > 0


def test_the_last_frame_lasts_as_long_as_the_file_says():
    pause = timing_of([0, 40, 80], TICK, [Fraction(25)], last_duration=2000)
    assert not pause.is_constant and pause.duration == Fraction(2080, 1000)
    for usual in (None, 0, 40, 41, 20):
        assert timing_of([0, 40, 80], TICK, [Fraction(25)], last_duration=usual).is_constant
    assert timing_of([0, 40, 100], TICK, [Fraction(25)], last_duration=7).end == 107


def test_fields_are_shown_half_a_frame_apart():
    fields = timing_of([0, 40, 80], TICK, [Fraction(25)]).of_fields()
    assert fields.rate == 50 and fields.ticks.tolist() == [0, 40, 80, 120, 160, 200]
    assert fields.time_base == TICK / 2 and fields.duration == Fraction(120, 1000)


def test_stamps_that_lie_years_apart_make_no_rate_of_zero():
    timing = timing_of([0, 2**40], TICK, [])
    assert timing.rate > 0


def test_a_part_without_frames_lasts_no_time():
    irregular = timing_of([0, 3, 4, 9], Fraction(1, 10), [])
    assert not irregular.is_constant
    assert irregular.part(0, 0).duration == 0
    assert irregular.part(0, 2).duration == Fraction(4, 10)
    assert timing_of([0, 1, 2], Fraction(1, 10), []).part(0, 0).duration == 0
