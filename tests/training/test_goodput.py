"""What the wall time of a run goes into, on a clock that the test turns."""

import json

import pytest

from skipsr_jax.training import goodput
from skipsr_jax.training.goodput import KINDS, Goodput


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(goodput.time, "monotonic", lambda: now[0])
    return now


def start(folder, clock, saved, steps):
    """A start of a run of ``steps`` steps of 2 s, each after 1 s of waiting; the seconds after."""
    counted = Goodput(folder, clock[0], saved)
    clock[0] += 10
    counted.enter("steps")
    for _ in range(steps):
        with counted.during("data"):
            clock[0] += 1
        clock[0] += 2
    return counted


def test_each_second_is_of_one_kind_and_shares_add_up(clock, tmp_path):
    counted = start(tmp_path, clock, {}, 5)
    with counted.during("save"):
        clock[0] += 4
        with counted.during("evaluation"):
            clock[0] += 1
    with pytest.raises(RuntimeError), counted.during("compile"):
        clock[0] += 10
        raise RuntimeError
    assert counted.seconds() == pytest.approx(
        {"steps": 10, "start": 10, "compile": 10, "data": 5, "save": 4, "evaluation": 1, "redo": 0}
    )
    found = counted.report()
    assert found["goodput_percent"] == pytest.approx(25)
    assert found["badput/data_percent"] == pytest.approx(12.5)
    assert len(found) == len(KINDS) and sum(found.values()) == pytest.approx(100)


def test_steps_beyond_the_checkpoint_of_a_killed_run_are_lost_once(clock, tmp_path):
    first = start(tmp_path, clock, {}, 3)
    saved = first.seconds()
    clock[0] += 4  # two steps more
    first.note()
    clock[0] += 1000  # between two starts
    second = start(tmp_path, clock, saved, 1)
    assert second.seconds() == pytest.approx(
        {"steps": 8, "start": 20, "compile": 0, "data": 4, "save": 0, "evaluation": 0, "redo": 4}
    )
    second.note()  # killed again, with no checkpoint since
    third = start(tmp_path, clock, saved, 1)
    assert third.seconds()["redo"] == pytest.approx(6)
    assert third.seconds()["steps"] == pytest.approx(8)


def test_all_steps_are_lost_without_a_checkpoint(clock, tmp_path):
    start(tmp_path, clock, {}, 3).note()
    assert start(tmp_path, clock, {}, 1).seconds()["redo"] == pytest.approx(6)


@pytest.mark.parametrize("text", ["", "[1]", '{"steps": "many"}', '{"steps": -5, "save": null}'])
def test_without_a_sound_note_the_checkpoint_counts(text, clock, tmp_path):
    (tmp_path / "goodput.json").write_text(text)
    saved = {"steps": 7.0, "save": 2.0}
    found = start(tmp_path, clock, saved, 0).seconds()
    assert (found["steps"], found["save"], found["redo"]) == (7, 2, 0)


def test_a_note_that_cannot_be_written_stops_nothing(clock, tmp_path):
    counted = start(tmp_path / "gone", clock, {}, 1)
    counted.note()
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone").mkdir()
    counted.note()
    noted = json.loads((tmp_path / "gone" / "goodput.json").read_text())
    assert noted == counted.seconds()
