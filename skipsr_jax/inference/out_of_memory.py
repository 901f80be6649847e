"""Turns a memory that ran out into one line with the entries of the config that need less."""

import contextlib
from collections.abc import Iterator

import jax

from skipsr_jax.errors import UserError, message_of

REMEDY = (
    "take a smaller size (config.size), shorter chunks (config.chunk.frames), spatial tiles "
    "(config.vae_memory_gib), config.coder=light or more devices (config.mesh.seq)"
)
_LONGEST = 200  # characters of a library's message


@contextlib.contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Raises UserError where the device or the host has no memory left for what is done inside.

    Args:
      what: is done, for the message.
    """
    try:
        yield
    except MemoryError as error:
        raise UserError(_line(what, "the host", error)) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(_line(what, jax.default_backend(), error)) from error


def _line(what: str, where: str, error: BaseException) -> str:
    said = message_of(error)[:_LONGEST]
    return f"{what}: the memory of {where} is exhausted ({said}); {REMEDY}"
