"""Files and folders that appear under their name only when they are complete.

Whatever writes a file or a folder writes it under a temporary name in the same folder (so on the
same file system) and renames it when it is complete:

    with new_file(path) as temporary:
        np.save(temporary, array)

After an exception the temporary is removed and ``path`` is untouched. A process that is killed
leaves its temporary behind; `is_temporary` recognises the name, which is hidden, has the extension
of the file and holds the number of the process: ``.clip.partial-4711-9f03a1c2.mp4``.

Invariant: what exists is not replaced unless ``overwrite`` says so. A new folder may take the
place of an empty one.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import TypeVar

from skipsr_jax.errors import UserError

_TEMPORARY = re.compile(r"\..*\.partial-\d+-[0-9a-f]{8}")

_LONGEST_NAME = 255  # bytes, of the usual file systems

AnyPath = TypeVar("AnyPath", bound=pathlib.PurePath)
"""`pathlib.Path`, or `etils.epath.Path`, which has the same methods and may be in a bucket."""


def temporary_path(path: AnyPath) -> AnyPath:
    """A hidden name beside ``path`` with its extension, another one at each call."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"  # threads may write the same file at once
    rest = f".partial-{unique}{path.suffix}"
    return path.with_name(shortened(f".{path.stem}", rest) + rest)


def shortened(start: str, rest: str) -> str:
    """``start``, cut so that a file system can hold ``start + rest`` as a name."""
    left = _LONGEST_NAME - len(os.fsencode(rest))
    while len(os.fsencode(start)) > left:
        start = start[:-1]
    return start


def is_temporary(path: pathlib.PurePath) -> bool:
    """Whether ``path`` has a name that `temporary_path` gives."""
    return _TEMPORARY.match(path.name) is not None


def check_absent(path: AnyPath, *, folder: bool = False) -> None:
    """Raises UserError when ``path`` exists; for a ``folder`` to be, an empty one may exist."""
    if path.exists() and not (folder and path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; choose another name or remove it")


def commit(temporary: AnyPath, path: AnyPath, *, overwrite: bool = False) -> None:
    """Renames the complete file or folder ``temporary`` to ``path``.

    With ``overwrite``, a file is replaced in one step, and a folder is moved aside first and
    removed afterwards. Raises UserError when ``path`` exists and ``overwrite`` is False.
    """
    if not overwrite:
        check_absent(path, folder=temporary.is_dir())
    if overwrite and temporary.is_dir() and path.is_dir():
        replaced = temporary_path(path)
        path.replace(replaced)
        temporary.replace(path)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        temporary.replace(path)


@contextlib.contextmanager
def new_file(path: AnyPath, *, overwrite: bool = False) -> Iterator[AnyPath]:
    """Yields the temporary name of a file; renames it to ``path`` at a clean end, else removes it.

    Raises UserError when ``path`` exists and ``overwrite`` is False, both before anything is
    written and when it has come into being meanwhile.
    """
    if not overwrite:
        check_absent(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        commit(temporary, path, overwrite=overwrite)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder beside ``path``, and ``path``'s parents; removes the folder at the end.

    For what is needed while ``path`` is made: it is on the same file system, so that what is
    complete in it can be renamed by `commit`.
    """
    folder = temporary_path(path)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path: pathlib.Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary folder; renames it to ``path`` at a clean end, else removes it.

    Raises UserError as `new_file`.
    """
    if not overwrite:
        check_absent(path, folder=True)
    with temporary_folder(path) as folder:
        yield folder
        commit(folder, path, overwrite=overwrite)


def cache_folder() -> pathlib.Path:
    """The folder of the user for what can be made again: XDG_CACHE_HOME, else ~/.cache.

    Nothing is created.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "skipsr_jax"
