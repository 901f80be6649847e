"""Times of the frames of an output, exactly."""

from fractions import Fraction

from skipsr_jax.media.frame_clock import FrameClock
from skipsr_jax.media.timing import timing_of

FILM = Fraction(24000, 1001)


def test_a_constant_rate_has_whole_ticks():
    clock = FrameClock(FILM, None, None)
    assert (clock.unit, clock.ticks(5), clock.origin) == (1 / FILM, 5, 0)


def test_a_late_start_is_exact():
    timing = timing_of([500, 540, 580], Fraction(1, 1000), [Fraction(25)])
    clock = FrameClock(timing.rate, timing, Fraction(0))
    assert clock.origin == 0
    assert [clock.ticks(i) * clock.unit for i in range(4)] == [
        Fraction(n, 50) for n in (25, 27, 29, 31)
    ]
    assert FrameClock(timing.rate, timing, timing.start - Fraction(1, 200)).ticks(0) == 0
    odd = FrameClock(FILM, timing_of([5, 7], 1 / FILM / 2, [FILM]), Fraction(1, 44100))
    assert abs(odd.ticks(1) * odd.unit + odd.origin - 7 / FILM / 2) < Fraction(1, 10000)
    assert odd.unit.denominator < 2**31


def test_the_last_frame_and_those_behind_it_have_times():
    timing = timing_of([0, 40, 100], Fraction(1, 1000), [Fraction(25)], last_duration=2000)
    clock = FrameClock(timing.rate, timing, None)
    assert [clock.ticks(i) for i in range(5)] == [0, 40, 100, 2100, 2140]
