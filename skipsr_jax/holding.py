"""Tells files that a living process writes from those that a dead one left behind.

A process number says nothing in containers, where every run may be process 1. So whoever writes a
file holds an advisory lock (flock) on it, which the operating system releases when the process
ends, however it ends. Locks are seen by all processes of a kernel, in whatever container; the name
of a temporary file says which kernel that was.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import socket
import time
from types import TracebackType

FOREIGN_SECONDS = 24 * 3600.0
"""For how long nobody may have written to a file of another machine before it counts as left
behind: locks are not seen by other machines on all shared file systems."""
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def machine() -> str:
    """Eight hexadecimal digits for the running kernel; others after it is started again."""
    try:
        name = _BOOT_ID.read_text()
    except OSError:  # not Linux
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


class Hold(contextlib.AbstractContextManager):
    """Holds a file or folder that this process writes, until it is closed or the process ends.

    Where the file system has no locks nothing is held.

    Args:
      path: a folder that exists, or a file, which is made if there is none.

    Raises:
      BlockingIOError: another process, or this one, holds it.
      OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike):
        is_folder = os.path.isdir(path)
        kind = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT
        self._descriptor = os.open(path, kind, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:  # a file system without locks
            pass

    def close(self) -> None:
        """Releases it; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_abandoned(path: pathlib.Path, writer: str) -> bool:
    """Whether no process writes a file or folder any more.

    ``writer``: what `machine` returned where it was made.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        has_locks = True
    except BlockingIOError:
        return False
    except OSError:
        has_locks = False
    finally:
        written = os.fstat(descriptor).st_mtime
        os.close(descriptor)
    if writer == machine() and has_locks:
        return True
    return time.time() - written > FOREIGN_SECONDS
