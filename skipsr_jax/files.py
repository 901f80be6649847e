"""Files and folders that appear under their name only when they are complete.

Whatever writes a file or a folder writes it under a temporary name in the same folder (so on the
same file system) and renames it when it is complete:

    with new_file(path) as temporary:
        np.save(temporary, array)

After an exception the temporary is removed and ``path`` is untouched. A process that is killed
leaves its temporary behind; `is_temporary` recognises the name, which is hidden, has the extension
of the file and holds the machine and the number of the process:
``.clip.partial-5c1e0f2a-4711-9f03a1c2.mp4``. `remove_leftovers` removes those that no process
writes any more.

Invariant: what exists is not replaced unless ``overwrite`` says so. A new folder may take the
place of an empty one.
"""

import contextlib
import itertools
import logging
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import TypeVar

from skipsr_jax.errors import UserError
from skipsr_jax.holding import Hold, is_abandoned, machine

_UNIQUE = r"([0-9a-f]{8})-\d+-[0-9a-f]{8}"
_TEMPORARY = re.compile(rf"\..*\.partial-{_UNIQUE}")
_REPLACED = re.compile(rf"\.(.*)\.replaced-{_UNIQUE}(.*)", re.DOTALL)

_LOG = logging.getLogger(__name__)
_LONGEST_NAME = 255  # bytes, of the usual file systems

AnyPath = TypeVar("AnyPath", bound=pathlib.PurePath)
"""`pathlib.Path`, or `etils.epath.Path`, which has the same methods and may be in a bucket."""

Identity = tuple
"""What `identity` returns."""


def temporary_path(path: AnyPath) -> AnyPath:
    """A hidden name beside ``path`` with its extension, another one at each call."""
    return _hidden(path, "partial")


def _hidden(path: AnyPath, word: str) -> AnyPath:
    unique = f"{machine()}-{os.getpid()}-{secrets.token_hex(4)}"  # threads may write one at once
    rest = f".{word}-{unique}{path.suffix}"
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


def hold(path: pathlib.PurePath) -> contextlib.AbstractContextManager:
    """Holds a temporary (`Hold`); of a path in a bucket, nothing."""
    return contextlib.nullcontext() if "://" in os.fspath(path) else Hold(path)


def identity(path: pathlib.Path) -> Identity:
    """What tells the file or folder at ``path`` from any other; () where there is none."""

    def of(item: os.stat_result) -> tuple:
        return item.st_dev, item.st_ino, item.st_size, item.st_mtime_ns

    try:
        if not path.is_dir():
            return of(path.stat())
        entries = sorted((entry.name, *of(entry.stat())) for entry in os.scandir(path))
        return of(path.stat())[:2], *entries
    except FileNotFoundError:
        return ()


def check_absent(path: AnyPath, *, folder: bool = False) -> None:
    """Raises UserError when ``path`` exists; for a ``folder`` to be, an empty one may exist."""
    if path.exists() and not (folder and path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; choose another name or remove it")


def commit(
    temporary: AnyPath, path: AnyPath, *, overwrite: bool = False, before: Identity | None = None
) -> None:
    """Renames the complete file or folder ``temporary`` to ``path``.

    A file is replaced in one step. A folder is moved aside first and removed afterwards; if the
    process is killed in between, `remove_leftovers` puts it back.

    Args:
      temporary: complete.
      path: its name to be.
      overwrite: whether to replace what exists.
      before: the `identity` of what may be replaced; None: of anything.

    Raises:
      UserError: ``path`` exists and must not be replaced.
    """
    is_folder = temporary.is_dir()
    if overwrite and before is not None and before != identity(path):
        overwrite = False
    if not overwrite:
        check_absent(path, folder=is_folder)
        if is_folder or "://" in os.fspath(path):  # renaming a folder never replaces files
            temporary.replace(path)
        else:
            _rename_to_new(temporary, path)
    elif is_folder and path.is_dir():
        _replace_folder(temporary, path)
    else:
        temporary.replace(path)


def _rename_to_new(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a file, unless ``path`` comes into being at the same moment."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        check_absent(path)
        raise
    except OSError:  # a file system without hard links: an empty file takes the name first
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            check_absent(path)
            raise
        temporary.replace(path)
    else:
        temporary.unlink()


def _replace_folder(temporary: pathlib.Path, path: pathlib.Path) -> None:
    replaced = _hidden(path, "replaced")
    with hold(path):
        path.replace(replaced)
        try:
            temporary.replace(path)
        except BaseException:
            replaced.replace(path)
            raise
    shutil.rmtree(replaced, ignore_errors=True)


def commit_or_rename(
    temporary: pathlib.Path, path: pathlib.Path, *, overwrite: bool, before: Identity
) -> None:
    """As `commit`; where ``path`` must not be replaced, the result gets another name, that is said.

    For results that took long. Raises UserError with the other name.
    """
    try:
        commit(temporary, path, overwrite=overwrite, before=before)
    except UserError as error:
        other = _renamed(temporary, path)
        raise UserError(
            f"{path} came into being or changed meanwhile and is not replaced; the result is "
            f"{other}"
        ) from error


def _renamed(temporary: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Renames to a name like ``path`` that nothing has, and returns it."""
    for number in itertools.count(1):
        rest = f"_{number}{path.suffix}"
        other = path.with_name(shortened(path.stem, rest) + rest)
        with contextlib.suppress(UserError):
            commit(temporary, other)
            return other
    raise AssertionError("numbers do not end")


def remove_leftovers(folder: pathlib.Path) -> list[str]:
    """Removes what dead processes left in a folder, and says so, a line for each.

    A folder that was moved aside to be replaced gets its name back if nothing has taken it.
    """
    said = []
    try:
        found = [pathlib.Path(entry.path) for entry in os.scandir(folder) if entry.name[0] == "."]
    except OSError:
        return said
    for path in sorted(found):
        partial, replaced = _TEMPORARY.match(path.name), _REPLACED.fullmatch(path.name)
        if partial and is_abandoned(path, partial[1]):
            _remove(path)
            said.append(f"{path} is removed: the process that wrote it ended too early")
        elif replaced and is_abandoned(path, replaced[2]):
            origin = path.with_name(replaced[1] + replaced[3])
            if origin.exists():
                _remove(path)
            else:
                path.replace(origin)
                said.append(f"{origin} is back: a process ended while it replaced the folder")
    return said


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def new_file(
    path: AnyPath, *, overwrite: bool = False, before: Identity | None = None
) -> Iterator[AnyPath]:
    """Yields the temporary name of a file; renames it to ``path`` at a clean end, else removes it.

    ``before``: as `commit` takes it.

    Raises UserError when ``path`` exists and ``overwrite`` is False, both before anything is
    written and when it has come into being meanwhile.
    """
    if not overwrite:
        check_absent(path)
    temporary = temporary_path(path)
    with hold(temporary):
        try:
            yield temporary
            commit(temporary, path, overwrite=overwrite, before=before)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder beside ``path``, and ``path``'s parents; removes the folder at the end.

    For what is needed while ``path`` is made: it is on the same file system, so that what is
    complete in it can be renamed by `commit`. What dead processes left there is removed.
    """
    for line in remove_leftovers(path.parent):
        _LOG.warning(line)
    folder = temporary_path(path)
    folder.mkdir(parents=True)
    try:
        with hold(folder):
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


def sync_file(path: pathlib.Path) -> None:
    """Waits until a file is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> pathlib.Path:
    """The folder of the user for what can be made again: XDG_CACHE_HOME, else ~/.cache.

    Nothing is created.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "skipsr_jax"
