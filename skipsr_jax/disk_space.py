"""Space on the disk, asked for before it is needed, and the line that says that there is none."""

import contextlib
import errno
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from skipsr_jax.errors import UserError

_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)
_PIECE = bytes(1 << 20)


def require_space(path: pathlib.Path, nbytes: int, what: str) -> None:
    """Raises UserError unless the disk of ``path``, which need not exist, has ``nbytes`` free.

    ``what``: takes the space, for the message.
    """
    folder, free = free_space(path)
    if free < nbytes:
        raise UserError(
            f"{path}: {what} takes up to {_size(nbytes)} of disk, and {folder} has {_size(free)} "
            "free: make space or choose another folder"
        )


def free_space(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """The folder that exists of ``path`` and those above it, and the free bytes of its disk."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free


def allocate(path: pathlib.Path, nbytes: int) -> None:
    """Makes a file of zeros that has its space on the disk. Raises OSError where there is none.

    A page of a mapped file that has no space, and gets none when it is written, kills the process
    (SIGBUS).
    """
    with open(path, "wb") as file:
        if sys.platform == "linux":
            if nbytes:
                os.posix_fallocate(file.fileno(), 0, nbytes)
            return
        for start in range(0, nbytes, len(_PIECE)):
            file.write(_PIECE[: nbytes - start])


def disk_words(error: BaseException) -> str | None:
    """The system's words for a full, read-only or broken disk, where an error is of one.

    They are looked for in its message and in what caused it, because libraries wrap them.
    """
    messages, cause = [], error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = " ".join(messages)
    return next((words for words in map(os.strerror, _ERRORS) if words in text), None)


@contextlib.contextmanager
def disk_errors_as_one_line(path: os.PathLike | str) -> Iterator[None]:
    """Wraps what writes ``path``. Raises UserError for errors of the disk; others pass.

    Libraries wrap these in errors of their own, so the words decide and not the type.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        words = disk_words(error)
        if words is None:
            raise
        raise UserError(f"cannot write {path}: {words}") from error


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.2f} MiB"
