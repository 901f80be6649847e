"""Checks that all writers share: can a result be made at its place, and what to say if not."""

import pathlib

from skipsr_jax.errors import UserError
from skipsr_jax.files import temporary_path


def check_writable(path: pathlib.Path, *, overwrite: bool) -> None:
    """Raises UserError unless ``path`` can be made in its folder (a file is made to find out)."""
    folder = path.parent
    try:
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder that must not be searched
        raise write_error(path, error) from error
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    if exists and not path.is_file():
        raise UserError(f"cannot write {path}: it is a device or a pipe, not a file")
    if exists and not overwrite:
        raise UserError(f"{path} exists: give --overwrite to replace it, or another name")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is not a folder")
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {folder}; create it first")
    probe = temporary_path(path)
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into the folder {folder}: {error.strerror}") from error


def write_error(path: pathlib.Path, error: OSError) -> UserError:
    """One line for a failed write (disk full, permission, ...)."""
    return UserError(f"cannot write {path}: {error.strerror or error}")
