"""Runs over several inputs: one that fails does not keep the others from being done."""

import contextlib
import errno
import pathlib
import sys
from collections.abc import Callable, Iterator

from skipsr_jax.errors import UserError, one_line, system_errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of the disk, which the next input would meet again."""


class Failures:
    """The inputs of a run that could not be done.

    Args:
      say: prints a line.

    Attributes:
      count: how many inputs there are; an error of the only one is raised as it is.
      lines: one for each that failed: what is wrong with it.
      paths: of those that failed.
    """

    def __init__(self, say: Callable[[str], None]):
        self.count = 0
        self.lines: list[str] = []
        self.paths: list[pathlib.Path] = []
        self._say = say

    @contextlib.contextmanager
    def of(self, path: pathlib.Path) -> Iterator[None]:
        """Notes a UserError of what is done inside with one input, and goes on.

        Raises the UserError where the input is the only one, or the disk is full or broken.
        """
        try:
            with system_errors():
                yield
        except UserError as error:
            cause = error.__cause__
            if self.count == 1 or getattr(cause, "errno", None) in _FULL:  # of OSError, FFmpegError
                raise
            line = str(error)
            self.paths.append(path)
            self.lines.append(line if str(path) in line else f"{path}: {line}")
            self._say(f"not done: {self.lines[-1]}")

    def report(self, program: str) -> int:
        """Prints the closing list on stderr. Returns the exit status: 0 if all inputs were done."""
        if not self.lines:
            return 0
        said = [f"{len(self.lines)} of {self.count} inputs failed", *self.lines]
        if len(self.lines) == 1:
            said = [": ".join(said)]
        for line in said:
            print(f"{program}: {one_line(line)}", file=sys.stderr)
        return 1
