"""The error for checkpoints that were complete once and cannot be read as they were saved."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from etils import epath

from skipsr_jax.errors import UserError, message_of

_LOGGERS = ("asyncio", "absl")
_OF_AN_ARRAY = "Encountered error while reading array index"
_LONGEST = 200  # characters of another library's message


class DamagedCheckpointError(UserError):
    """A checkpoint that was complete once cannot be read, or has other numbers than were saved."""


def first_words(error: BaseException) -> str:
    """The beginning of an exception's message on one line, or its type where it has none."""
    return message_of(error)[:_LONGEST] or type(error).__name__


@contextlib.contextmanager
def damage_as_one_line(folder: epath.Path) -> Iterator[None]:
    """Wraps what reads files of the checkpoint ``folder`` and does nothing else.

    Raises DamagedCheckpointError for whatever Orbax and TensorStore raise, because what a damaged
    file makes them raise has no common type: a bare Exception, errors of asyncio, of JSON, of array
    shapes, of memory. Raises UserError when files may not be read. A UserError passes.
    """
    try:
        with quiet_after_failure():
            yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{folder}: {first_words(error)}") from error
    except Exception as error:
        raise DamagedCheckpointError(
            f"{folder}: cannot be read, perhaps damaged or half-copied: {first_words(error)}"
        ) from error


def is_after_failure(unraisable: "sys.UnraisableHookArgs") -> bool:
    """Whether what no caller can catch only follows from a failure of Orbax.

    TensorStore's threads report to an event loop that Orbax has closed after the first failure, and
    the coroutines of the other arrays fail when they are collected.
    """
    message = str(unraisable.exc_value)
    return message == "Event loop is closed" or message.startswith(_OF_AN_ARRAY)


@contextlib.contextmanager
def quiet_after_failure() -> Iterator[None]:
    """Wraps what Orbax does to many arrays at a time. After it failed, the rest fails silently.

    Orbax logs what its threads raise, with tracebacks, before it raises it again. It closes its
    event loop at the first error. asyncio then logs the errors of the other arrays, and
    TensorStore's threads cannot tell the loop that they are done, which Python reports on stderr as
    exceptions that nobody can catch. Both can come long after.
    """
    loggers, report = [logging.getLogger(name) for name in _LOGGERS], sys.unraisablehook

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "never retrieved" not in message and "_SignalingThread.run()" not in message

    def without_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
        if not is_after_failure(unraisable):
            report(unraisable)

    for logger in loggers:
        logger.addFilter(is_news)
    sys.unraisablehook = without_closed_loops
    yield  # an exception leaves both in place
    for logger in loggers:
        logger.removeFilter(is_news)
    sys.unraisablehook = report
