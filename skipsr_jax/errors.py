"""The exceptions that mean: the user can mend this; and their lines."""

import contextlib
import os
import re
from collections.abc import Iterator

_SPECIAL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PATH = (str, bytes, os.PathLike)


class UserError(ValueError):
    """Something the user gave is wrong. Its message is one line that says what to change.

    The command lines print the message and exit with status 1, without a traceback.
    """


class MissingExtraError(ModuleNotFoundError, UserError):
    """A module needs a dependency that only an extra of the package installs."""


def one_line(text: str) -> str:
    """The text as one line that any terminal shows, with escapes for control characters and for
    bytes of file names that are no text (surrogates)."""
    return "".join(
        character.encode("unicode_escape").decode() if _SPECIAL.match(character) else character
        for character in text
    )


def plural(count: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def message_of(error: BaseException) -> str:
    """The message of an exception with every run of white space as one space, so on one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of a message that goes on, as XLA's do; without a message the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raises UserError, with the name of the file, where the system refuses what is done inside.

    What was foreseen has a line of its own. The rest ends here: a name that is too long, a folder
    that must not be searched, a disk or a server that is gone, no memory.
    """
    try:
        yield
    except OSError as error:
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, _PATH)]
        reason = error.strerror or message_of(error) or type(error).__name__
        raise UserError(f"{' and '.join(names)}: {reason}" if names else reason) from error
    except MemoryError as error:
        raise UserError(f"the memory of this machine is exhausted ({message_of(error)})") from error


@contextlib.contextmanager
def imports_of_extra(extra: str) -> Iterator[None]:
    """Wraps imports of what an extra of the package installs.

    Raises MissingExtraError, which names the extra, instead of ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed: pip install 'skipsr-jax[{extra}]'", name=error.name
        ) from error
