"""Which programs the last run of a kind used: a list of files beside the programs themselves.

A run that knows the list can begin to load all of them before it has traced or read anything. The
list is advice alone: a program that it names is used only where its own key asks for it.
"""

import logging
import os
import pathlib
import re
from collections.abc import Iterable

from skipsr_jax.files import new_file

SUFFIX = ".recent"
_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]+\.program")
_LOG = logging.getLogger(__name__)


class RecentPrograms:
    """The list of one kind of run.

    Args:
      path: of the list; it need not exist.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._written = self._read()

    def __iter__(self):
        """Names of files, in the order in which the last run asked for them."""
        return iter(self._written)

    def _read(self) -> tuple[str, ...]:
        try:
            if hasattr(os, "getuid") and self._path.stat().st_uid != os.getuid():
                return ()
            return tuple(_NAME.findall(self._path.read_text(errors="replace")))
        except OSError:
            return ()

    def write(self, names: Iterable[str]) -> None:
        """Replaces the list, if it is another one."""
        names = tuple(names)
        if names == self._written:
            return
        try:
            if not self._path.parent.is_dir():
                return
            with new_file(self._path, overwrite=True) as temporary:
                temporary.write_text("".join(f"{name}\n" for name in names))
            self._written = names
        except OSError as error:
            _LOG.warning("%s is not written: %s", self._path, error)
