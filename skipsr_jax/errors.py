"""The exceptions that mean: the user can mend this."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Something the user gave is wrong. Its message is one line that says what to change.

    The command lines print the message and exit with status 1, without a traceback.
    """


class MissingExtraError(ModuleNotFoundError, UserError):
    """A module needs a dependency that only an extra of the package installs."""


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
