"""Keeps two runs from training in one workdir at the same time.

On a file system with advisory locks the run holds one, which the operating system releases when the
process ends, however it ends. In a bucket, and on file systems without such locks, the run renews a
file every few seconds instead; a file that nobody renews belonged to a run that is dead.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from etils import epath

from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file

NAME = ".lock"
RENEWAL_SECONDS = 10.0
WAIT_SECONDS = 35.0
"""For how long a new run watches a lock file before it takes its owner for dead."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: epath.Path) -> Iterator[None]:
    """Holds the lock of a workdir, a local folder or one on ``gs://``.

    Raises UserError when another run holds it. Where only a lock file can be used and there is one,
    this takes ``WAIT_SECONDS``, unless the file names a process of this machine that is gone.
    """
    path = folder / NAME
    if "://" in os.fspath(path):
        with _renewed_file(path):
            yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise _busy(folder, _owner(owner)) from error
    except OSError as error:
        os.close(descriptor)
        if error.errno not in _WITHOUT_LOCKS:
            raise
        with _renewed_file(path):
            yield
        return
    try:
        with contextlib.suppress(OSError):  # who holds it is for messages alone
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps(_myself()).encode())
        yield
    finally:
        os.close(descriptor)  # the file stays: removing it would let two runs in


@contextlib.contextmanager
def _renewed_file(path: epath.Path) -> Iterator[None]:
    """Holds a lock file, which a thread renews."""
    _wait_until_dead(path)
    token = secrets.token_hex(8)

    def renew(count: int) -> None:
        with new_file(path, overwrite=True) as temporary:  # nobody reads half of it
            temporary.write_text(json.dumps(_myself() | {"token": token, "count": count}))

    renew(0)
    if json.loads(path.read_text()).get("token") != token:
        raise _busy(path.parent, "a run that began at the same moment")
    ended = threading.Event()

    def keep() -> None:
        count = 0
        while not ended.wait(RENEWAL_SECONDS):
            count += 1
            try:
                renew(count)
            except OSError as error:
                logging.warning("%s cannot be renewed: %s", path, error)

    thread = threading.Thread(target=keep, daemon=True, name="workdir lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _wait_until_dead(path: epath.Path) -> None:
    """Returns when nobody renews the file. Raises UserError when somebody does."""
    before = _content(path)
    if before is None or _is_gone(before):
        return
    logging.info("%s: waiting to see whether another run renews it", path)
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        time.sleep(min(RENEWAL_SECONDS / 4, 1))
        now = _content(path)
        if now is None:
            return
        if now != before:
            raise _busy(path.parent, _owner(now))


def _content(path: epath.Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _myself() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _is_gone(content: str) -> bool:
    """Whether a lock file names a process of this machine that no longer runs."""
    try:
        owner = json.loads(content)
        if owner["host"] != socket.gethostname():
            return False
        if owner["pid"] == os.getpid():  # of an earlier process with this number
            return True
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, TypeError, KeyError, OSError):
        return False
    return False


def _owner(content: str) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, TypeError, KeyError):
        return "another process"


def _busy(folder: epath.Path, owner: str) -> UserError:
    return UserError(f"{folder} is in use by {owner}: stop that run, or name another --workdir")
