"""Turns a memory that ran out into one line with the entries of the config that need less."""

import contextlib
from collections.abc import Iterator

import jax

from skipsr_jax.errors import UserError, message_of

_LONGEST = 200  # characters of a library's message


@contextlib.contextmanager
def memory_errors(what: str, remedy: str) -> Iterator[None]:
    """Raises UserError where the device or the host has no memory left for what is done inside.

    Args:
      what: is done, for the message.
      remedy: what takes less memory, in words.
    """
    try:
        yield
    except MemoryError as error:
        raise UserError(_line(what, "the host", error, remedy)) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(_line(what, jax.default_backend(), error, remedy)) from error


def _line(what: str, where: str, error: BaseException, remedy: str) -> str:
    said = message_of(error)[:_LONGEST]
    return f"{what}: the memory of {where} is exhausted ({said}); {remedy}"
