"""The error for checkpoints that were complete once and cannot be read as they were saved."""

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator

from etils import epath

from skipsr_jax.errors import UserError, message_of

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
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{folder}: {first_words(error)}") from error
    except Exception as error:
        _silence_other_reads()
        raise DamagedCheckpointError(
            f"{folder}: cannot be read, perhaps damaged or half-copied: {first_words(error)}"
        ) from error


@functools.cache
def _silence_other_reads() -> None:
    """Keeps reads that were under way when another one failed from writing tracebacks to stderr.

    Orbax reads arrays at the same time and closes its event loop at the first error. asyncio then
    logs the errors of the others, and TensorStore's threads cannot tell the loop that they are
    done, which Python reports as exceptions that nobody can catch.
    """

    def unretrieved(record: logging.LogRecord) -> bool:
        return "never retrieved" not in record.getMessage()

    report = sys.unraisablehook

    def without_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    logging.getLogger("asyncio").addFilter(unretrieved)
    sys.unraisablehook = without_closed_loops
