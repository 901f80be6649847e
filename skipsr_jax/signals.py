"""Ends programs on SIGINT (Ctrl-C), SIGTERM and SIGHUP: one line, and the status that shells give.

A handler of Python runs in the main thread, between two steps of Python: not while XLA compiles.
So a thread is told of each signal, too. It ends the process where the main thread does not come to
it in time. This module imports nothing that takes long, so that a program can begin with it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0
"""For how long a program may clean up. Batch systems often kill after ten seconds."""


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(name_of(number))
        self.number = number


class StoppedStatus(int):
    """The exit status of a program that a signal stopped: it waits for no thread that works on."""


def name_of(number: int) -> str:
    """What stopped a program, in words."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def status_of(number: int) -> int:
    """The exit status of a program that a signal ended, as shells give it."""
    return 128 + number


def status_of_training(number: int) -> int:
    """That of a training run: SIGTERM and SIGHUP are how batch systems end one that may go on."""
    return status_of(number) if number == signal.SIGINT else 0


@contextlib.contextmanager
def handled(
    handler: Callable[[int], None],
    at_once: Callable[[int], None],
    numbers: tuple[signal.Signals, ...] = STOPPING,
) -> Iterator[None]:
    """Handles signals inside the block; only in the main thread, elsewhere it does nothing.

    Args:
      handler: called in the main thread with the number, when that runs Python again.
      at_once: called in another thread with the number, at once.
      numbers: of the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def call(number: int, frame: FrameType | None) -> None:
        handler(number)

    receiver, sender = os.pipe()
    os.set_blocking(sender, False)

    def watch() -> None:
        while (data := os.read(receiver, 1)) and data[0]:
            if data[0] in numbers:
                at_once(data[0])

    thread = threading.Thread(target=watch, daemon=True, name="signals")
    thread.start()
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, call) for number in numbers}
    try:
        yield
    finally:
        for number, previous in handlers.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(before)
        os.write(sender, b"\0")
        thread.join()
        os.close(receiver)
        os.close(sender)


@contextlib.contextmanager
def raised(program: str, grace: float = GRACE_SECONDS) -> Iterator[None]:
    """Raises `Stopped` in the main thread when a signal comes.

    A second signal, or ``grace`` seconds without an end, end the process at once, with the line
    that the program would have printed.
    """
    first: list[int] = []

    def stop(number: int) -> None:
        if not first:
            first.append(number)
            raise Stopped(number)

    timers: list[threading.Timer] = []

    def insist(number: int) -> None:
        if timers:
            end(program, number)
        timers.append(threading.Timer(grace, end, (program, number)))
        timers[0].daemon = True
        timers[0].start()

    try:
        with handled(stop, insist):
            yield
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def ended_at_once(program: str, status: Callable[[int], int] = status_of) -> Iterator[None]:
    """Ends the process when a signal comes: for when nothing has begun that could be cut off."""

    def at_once(number: int) -> None:
        end(program, number, status(number))

    with handled(lambda number: None, at_once):
        yield


def end_from_now_on(program: str) -> None:
    """Ends the process when a signal comes, until other handlers are set: for the first line of a
    program, so that Ctrl-C is one line while it is imported."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, frame: end(program, number))


def end(program: str, number: int, status: int | None = None) -> None:
    """Ends the process now, with one line and without anything else."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.write(2, line(program, number).encode(errors="backslashreplace") + b"\n")
    os._exit(status_of(number) if status is None else status)


def report(
    program: str, stop: KeyboardInterrupt, status: Callable[[int], int] = status_of
) -> StoppedStatus:
    """Prints the line of a program that a signal stopped to stderr; returns its exit status."""
    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    print(line(program, number), file=sys.stderr)
    return StoppedStatus(status(number))


def line(program: str, number: int) -> str:
    """What a program says that a signal ended."""
    return f"{program}: stopped by {name_of(number)}"
