"""Few programs in short runs, little padding in long ones."""

import numpy as np
import pytest

from skipsr_jax.inference.size_choice import SizeChoice

COMPILE, LOAD = 10.0, 0.5


def run(sizes, seconds_per_unit, kept=()):
    """(programs made, seconds of padding) of a run that begins with a program of 100 units."""
    choice, ready, padding = SizeChoice(COMPILE, LOAD), {100}, 0.0
    for size in sizes:
        fits = [other for other in ready if other >= size]
        got = choice.choose(size, fits, lambda s: s * seconds_per_unit, lambda s: s in kept)
        assert got >= size
        padding += (got - size) * seconds_per_unit
        ready.add(got)
    return len(ready) - 1, padding


def sizes(count):
    return np.random.default_rng(0).integers(30, 100, count).tolist()


def test_a_short_run_makes_no_further_program():
    assert run(sizes(11), 0.002) == (0, pytest.approx(11 * 0.002 * 35, rel=0.3))


def test_a_long_run_ends_with_little_padding():
    wanted = sizes(20_000)
    half, whole = (run(wanted[:count], 0.02) for count in (10_000, 20_000))
    always_largest = sum(100 - size for size in wanted[10_000:]) * 0.02
    assert whole[0] <= 70
    assert whole[1] - half[1] < 0.05 * always_largest


def test_the_waste_never_exceeds_what_the_programs_cost_by_more_than_one():
    made, padding = run(sizes(500), 0.02)
    assert padding <= (made + 1) * COMPILE + 100 * 0.02


def test_kept_programs_are_taken_sooner():
    wanted = sizes(60)
    assert run(wanted, 0.02, kept=set(wanted))[0] > run(wanted, 0.02)[0]


def test_the_first_size_and_a_ready_size_are_taken_as_they_are():
    choice = SizeChoice(COMPILE, LOAD)
    assert choice.choose(7, [], float, lambda s: False) == 7
    assert choice.choose(7, [7, 9], float, lambda s: False) == 7
    assert choice.wasted_seconds == 0
