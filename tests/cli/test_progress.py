"""The bar: what it says, that it moves by itself, and that it is silent without a terminal."""

import io
import re
import time

from skipsr_jax.cli.progress import ProgressBar, waiting
from skipsr_jax.inference.program_cache import Counts

PATIENCE = 60


class Terminal(io.StringIO):
    def isatty(self):
        return True


def wait_for(terminal, pattern):
    """Waits until something was drawn that holds the pattern."""
    limit = time.monotonic() + PATIENCE
    while not (found := re.search(pattern, terminal.getvalue())):
        assert time.monotonic() < limit, terminal.getvalue()
        time.sleep(0.01)
    return found


def test_it_moves_while_programs_are_compiled():
    terminal, counts = Terminal(), Counts()
    with ProgressBar("clip", 10, counts, terminal) as bar:
        bar("encode", 0.0)
        wait_for(terminal, "00:0[0-9], encode")
        counts.waiting.add(1)
        wait_for(terminal, "compiling")
        wait_for(terminal, "00:0[1-9], compiling")  # the clock goes on
        counts.waiting.discard(1)
        bar("decode", 5.0)
        wait_for(terminal, r"50%.*decode, [\d.]+ frames/s, 0\d:\d\d left")


def test_time_for_programs_is_no_part_of_the_rate():
    counts = Counts(waited_seconds=7.0)
    bar = ProgressBar("clip", 10, counts, io.StringIO())
    bar("decode", 5.0)
    counts.waited_seconds += 1e-9
    rate = float(re.search(r"([\d.e+]+) frames/s", bar.text())[1])
    bar._began -= 100.0  # as if the programs had taken this long
    counts.waited_seconds += 100.0
    again = float(re.search(r"([\d.e+]+) frames/s", bar.text())[1])
    assert rate / 100 < again


def test_nothing_is_drawn_without_a_terminal():
    file = io.StringIO()
    with waiting("loading", file), ProgressBar("clip", 3, Counts(), file) as bar:
        bar("write", 3.0)
    assert file.getvalue() == ""


def test_waiting_shows_the_seconds():
    terminal = Terminal()
    with waiting("loading the model", terminal):
        wait_for(terminal, "loading the model 00:0[1-9]")
