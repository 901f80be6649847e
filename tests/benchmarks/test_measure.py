"""Benchmarks as programs: help that was asked for, and one line for a mistake."""

import importlib
import pathlib
import signal
import sys

import pytest

from benchmarks import measure
from skipsr_jax import signals
from skipsr_jax.errors import UserError

FOLDER = pathlib.Path(measure.__file__).parent
PROGRAMS = sorted(p.stem for p in FOLDER.glob("*.py") if '"__main__"' in p.read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_says_what_it_takes(name, capsys):
    program = importlib.import_module(f"benchmarks.{name}")
    asked = [name, "--help"]
    if name == "tpu_aot":  # which has no config of its own
        asked.append(f"--config={FOLDER.parent / 'configs' / 'tiny.py'}")
    with pytest.raises(SystemExit) as end:
        program.main(asked)
    assert not end.value.code
    said = capsys.readouterr().out
    assert said.startswith(program.__doc__) and "--out" in said


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"tpu_aot"}))
def test_an_unknown_flag_is_named(name):
    with pytest.raises(UserError, match="nothing_of_the_kind"):
        importlib.import_module(f"benchmarks.{name}").main([name, "--nothing_of_the_kind=1"])


def test_a_mistake_ends_in_one_line_and_status_1(monkeypatch):
    def main(argv):
        raise UserError(f"no {argv[1]}")

    monkeypatch.setattr(sys, "argv", ["some", "thing"])
    with pytest.raises(SystemExit) as end:
        measure.run_program("some", main)
    assert end.value.code == "some: no thing"  # which Python prints before it ends with status 1


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_ends_in_one_line_and_the_status_of_shells(number, monkeypatch, capsys):
    def main(argv):
        signal.raise_signal(number)
        raise AssertionError("it went on")

    monkeypatch.setattr(sys, "argv", ["some"])
    with pytest.raises(SystemExit) as end:
        measure.run_program("some", main)
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == f"some: stopped by {signals.name_of(number)}\n"
