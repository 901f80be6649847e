"""What the programs of evaluation share: checks of what they write, and how they end.

An output that cannot be written is found before any work, a write that fails later and a signal
end in one line, and nothing is left half-written.
"""

import contextlib
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from skipsr_jax import signals
from skipsr_jax.errors import UserError, one_line, system_errors
from skipsr_jax.files import check_absent, new_file
from skipsr_jax.inference.protected import check_protected
from skipsr_jax.media.outputs import check_writable, write_error


def check_folder(path: pathlib.Path) -> None:
    """Raises UserError unless a new folder can be made at ``path``; parents will be made too."""
    try:
        check_absent(path, folder=True)
        parent = next(folder for folder in path.absolute().parents if folder.exists())
    except OSError as error:
        raise write_error(path, error) from error
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is not a folder")
    check_writable(parent / "new", overwrite=True)


def check_outside(flag: str, path: pathlib.Path, other_flag: str, other: pathlib.Path) -> None:
    """Raises UserError where ``path`` is ``other`` or lies in it: ``other`` would replace it."""
    if other.resolve() in (path.resolve(), *path.resolve().parents):
        raise UserError(f"{flag}={path} is within {other_flag}={other}: name another place")


def check_kept(outputs: Sequence[pathlib.Path], sources: Iterable[pathlib.Path]) -> None:
    """Raises UserError where an output would replace a file that the program reads.

    Links are followed, and hard links are the file too.

    Args:
      outputs: files and folders to be; those that exist would be replaced.
      sources: files that the program reads; not looked at unless an output exists.
    """
    outputs = [path for path in outputs if path.exists()]
    for source in sources if outputs else ():
        check_protected(outputs, [], str(source))
        for path in outputs:
            if path.resolve() in source.resolve().parents:
                raise UserError(f"the folder {path} holds the input {source}; name another output")


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError of the block, such as a full disk, into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


class _Lines(logging.Handler):
    """Collects the messages of warnings, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (line := record.getMessage()) not in self.lines:
            self.lines.append(line)


@contextlib.contextmanager
def warnings_of_files() -> Iterator[list[str]]:
    """Yields the list that gets what readers warn of inside the block, such as damaged frames."""
    log, handler = logging.getLogger("skipsr_jax.media"), _Lines()
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)


def write_json(path: pathlib.Path, content: Any, *, overwrite: bool) -> None:
    """Writes a JSON file, whole or not at all. Raises UserError where that fails."""
    with writing(path), new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def status_of(run: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a program; returns its exit status.

    Args:
      run: the program, which prints.
      argv: begins with the program's name.

    Returns:
      0; 1 after a UserError, whose message is printed; 128 + n after signal n, with one line.
    """
    name = os.path.basename(argv[0])
    try:
        with signals.raised(name), system_errors():
            run(argv)
    except UserError as error:
        print(f"{name}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        return signals.report(name, stop)
    return 0
