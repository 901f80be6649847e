"""Keeps the outputs of a run apart from its inputs, and from each other.

Files are compared by what they are, not by their names: a hard link, another spelling on a file
system that ignores case, and a link to a folder all lead to the same file. Invariant: no input of a
run, and no reference of its masks, is replaced by an output of it.
"""

import os
import pathlib
import unicodedata
from collections.abc import Iterator, Sequence

from skipsr_jax.errors import UserError
from skipsr_jax.files import Identity, identity, temporary_path
from skipsr_jax.media.reader import Media


def check_protected(
    outputs: Sequence[pathlib.Path], inputs: Sequence[Media], reference: str
) -> None:
    """Raises UserError when an output of a run is an input of it, lies among the frames of one, or
    is another output.

    Args:
      outputs: files and folders to be; they may exist.
      inputs: of the run, all of them.
      reference: the true video of the masks; "" without one.
    """
    sources = {_file_number(path): path for path in _files(inputs, reference)}
    folders = {_file_number(m.path): m.path for m in inputs if m.kind == "frames"}
    sources.pop(None, None)
    folders.pop(None, None)
    for path in outputs:
        found = sources.get(_file_number(path))
        if found is not None:
            raise UserError(f"{path} is {_named(found, path)}; name another output")
        for item in _entries(path):
            found = sources.get(_file_number(item))
            if found is not None:
                raise UserError(
                    f"the folder {path} holds {item.name}, which is {_named(found, item)}; name "
                    "another output"
                )
        found = folders.get(_file_number(path.parent))
        if found is not None:
            raise UserError(f"{path} would lie among the frames of {found}; name another output")
    _check_distinct(outputs)


def check_unchanged(path: pathlib.Path, before: Identity) -> None:
    """Raises UserError when an output to be is not what it was when the run began.

    ``before``: its `identity` then.
    """
    if identity(path) != before:
        raise UserError(f"{path} came into being or changed since the run began: not replaced")


def _files(inputs: Sequence[Media], reference: str) -> Iterator[pathlib.Path]:
    for media in inputs:
        yield media.path
        yield from media.files
    if reference:
        yield pathlib.Path(reference)
        yield from _entries(pathlib.Path(reference))


def _named(source: pathlib.Path, path: pathlib.Path) -> str:
    return "an input itself" if source == path else f"the input {source} by another name"


def _entries(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """What lies directly in a folder; nothing for a file, or for nothing."""
    if path.is_dir():
        with os.scandir(path) as entries:
            yield from (pathlib.Path(entry.path) for entry in entries)


def _file_number(path: pathlib.Path) -> tuple[int, int] | None:
    """What is equal for all names of a file or folder; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_distinct(outputs: Sequence[pathlib.Path]) -> None:
    """Raises UserError where the file system takes two names for the same."""
    found: dict[tuple[pathlib.Path, str], pathlib.Path] = {}
    for path in outputs:
        folded = unicodedata.normalize("NFKC", path.name).casefold()
        other = found.setdefault((path.parent, folded), path)
        if other is not path and (other.name == path.name or _are_one(other, path)):
            raise UserError(f"two inputs would both become {path}: rename one of them")


def _are_one(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether names that differ in case or form alone mean one file in their folder."""
    probe = temporary_path(first)
    ends = [probe.with_name(probe.name + name) for name in (first.name, second.name)]
    try:
        ends[0].touch()
    except OSError:  # a folder that cannot be written is refused elsewhere
        return False
    try:
        return ends[1].exists()
    finally:
        ends[0].unlink(missing_ok=True)
