"""The device starts in a thread, and an error waits for whoever needs the device."""

import os

import jax
import pytest

from skipsr_jax.cli.device_start import PREALLOCATE, start_device


def test_the_device_is_there_when_the_thread_ends():
    thread = start_device(is_small=True)
    thread.join(60)
    assert not thread.is_alive() and jax.local_device_count() > 0


def test_a_device_that_does_not_start_ends_the_thread_without_a_word(monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("no device")

    monkeypatch.setattr(jax, "device_put", refuse)
    start_device(is_small=True).join(60)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("is_small", "given", "is_then"),
    [(True, None, "false"), (True, "true", "true"), (False, None, None)],
)
def test_memory_is_taken_as_needed_for_a_small_model_unless_the_user_says_otherwise(
    monkeypatch, is_small, given, is_then
):
    monkeypatch.setenv(PREALLOCATE, given or "")  # restored afterwards
    if given is None:
        monkeypatch.delenv(PREALLOCATE)
    start_device(is_small).join(60)
    assert os.environ.get(PREALLOCATE) == is_then
