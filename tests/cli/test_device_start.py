"""The device starts in a thread, and an error waits for whoever needs the device."""

import jax

from skipsr_jax.cli.device_start import start_device


def test_the_device_is_there_when_the_thread_ends():
    thread = start_device()
    thread.join(60)
    assert not thread.is_alive() and jax.local_device_count() > 0


def test_a_device_that_does_not_start_ends_the_thread_without_a_word(monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("no device")

    monkeypatch.setattr(jax, "device_put", refuse)
    start_device().join(60)
    assert capsys.readouterr().err == ""
