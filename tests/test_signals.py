"""A signal ends a program with one line and the status of shells, whatever it is doing."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from skipsr_jax import signals

ROOT = pathlib.Path(__file__).resolve().parents[1]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def ended(code, *numbers):
    """Runs Python until it prints "ready", sends the signals; returns its status and stderr."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.send_signal(numbers[0])
        for number in numbers[1:]:
            process.stdout.readline()  # it does something about the one before
            process.send_signal(number)
        status = process.wait(timeout=600)
        return status, process.stderr.read()


# Stands for a program whose import takes long.
IMPORTING = """
    import sys, types
    from skipsr_jax.cli import commands

    def slowly(name):
        print("ready", flush=True)
        sys.stdin.read()

    commands.importlib = types.SimpleNamespace(import_module=slowly)
    sys.argv = ["bin/PROGRAM.py"]
    sys.exit(commands.PROGRAM())
"""


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("program", ["infer", "train"])
def test_while_the_program_is_imported(program, number):
    status, said = ended(IMPORTING.replace("PROGRAM", program), number)
    stops_well = program == "train" and number != signal.SIGINT
    assert status == (0 if stops_well else STATUS[number])
    assert said == f"{program}.py: stopped by {signals.name_of(number)}\n"


# The main thread waits in a call of C that no signal interrupts, as while XLA compiles.
BUSY = """
    import ctypes
    from skipsr_jax import signals

    with signals.raised("busy", grace=0.2):
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        said = False
        while True:
            try:
                said = said or print("ready", flush=True) or True
                libc.pthread_mutex_lock(mutex)
            except signals.Stopped:  # the signal came before the call
                pass
"""


@pytest.mark.parametrize("number", STATUS)
def test_where_the_main_thread_does_not_come_to_it(number):
    status, said = ended(BUSY, number)
    assert (status, said) == (STATUS[number], f"busy: stopped by {signals.name_of(number)}\n")


def test_a_second_signal_ends_what_cleans_up():
    status, said = ended(
        """
        import sys, time
        from skipsr_jax import signals

        with signals.raised("slow", grace=600):
            try:
                print("ready", flush=True)
                sys.stdin.read()
            except signals.Stopped:
                print("cleaning", flush=True)
                while True:
                    time.sleep(0.01)
        """,
        signal.SIGTERM, signal.SIGTERM,
    )  # fmt: skip
    assert (status, said) == (143, "slow: stopped by SIGTERM\n")


def test_it_is_raised_in_the_main_thread_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(signals.Stopped) as stopped, signals.raised("test"):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(600)
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]
