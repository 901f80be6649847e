"""One run at a time in a workdir; a dead one does not hold it."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from etils import epath

from skipsr_jax.errors import UserError
from skipsr_jax.training import workdir_lock
from skipsr_jax.training.workdir_lock import NAME, locked

HOLD = """
import sys
from etils import epath
from skipsr_jax.training.workdir_lock import locked
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without advisory locks, and short waits."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(workdir_lock.fcntl, "flock", refuse)
    monkeypatch.setattr(workdir_lock, "RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(workdir_lock, "WAIT_SECONDS", 0.5)


def test_a_second_process_is_refused_until_the_first_is_killed(folder):
    command = [sys.executable, "-c", HOLD, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        message = f"in use by process {other.pid} on {socket.gethostname()}: stop that run"
        with pytest.raises(UserError, match=message), locked(folder):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with locked(folder):
        pass
    with locked(folder):
        pass


def test_without_advisory_locks_a_renewed_file_holds_the_folder(folder, no_locks, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(workdir_lock, "_myself", lambda: {"host": "another", "pid": 7})
        with locked(folder):
            with pytest.raises(UserError, match="in use by process 7 on another"), locked(folder):
                pass
            assert json.loads((folder / NAME).read_text())["pid"] == 7
    assert not (folder / NAME).exists()


@pytest.mark.parametrize("content", ["{", json.dumps({"host": "another", "pid": 1, "count": 3})])
def test_a_file_that_nobody_renews_does_not_hold_it(folder, no_locks, content):
    (folder / NAME).write_text(content)
    with locked(folder):
        assert json.loads((folder / NAME).read_text())["pid"] == os.getpid()


def test_a_file_of_a_process_that_is_gone_is_taken_at_once(folder, no_locks, monkeypatch):
    monkeypatch.setattr(workdir_lock, "WAIT_SECONDS", 1e6)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / NAME).write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid}))
    with locked(folder):
        pass
