"""What a data worker does besides making samples.

It passes over bad files, ends when it is alone, and notes which file it reads, so that the process
that started it can say so if the worker is killed.

Invariant: a batch is a function of its index and of the files alone, also where some are damaged.
"""

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence

import av
import numpy as np

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.sample import Recipe, Sample, make_sample
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, message_of
from skipsr_jax.signals import STOPPING

TRIES = 10
"""Sources that are tried for a sample before the data counts as unusable."""
_UNREADABLE = (UserError, OSError, av.FFmpegError)


def sample_of_any(
    source: Source,
    rng: np.random.Generator,
    shape: ClipShape,
    recipe: Recipe,
    others: Sequence[Source],
) -> Sample:
    """A sample of ``source``, or of another one, drawn by ``rng``, where it cannot be read.

    Each worker names a file that it passes over once, in a warning.

    Args:
      source: where the sample should come from.
      rng: gives everything random.
      shape: of the sample.
      recipe: of the sample; where ``recipe.strict`` is set, nothing is passed over.
      others: what may stand in for it.

    Raises:
      UserError: a source cannot be read and ``recipe.strict`` is set, or many cannot be read.
    """
    end_with_parent()
    for _ in range(TRIES):
        _note_reading(source.path)
        try:
            return make_sample(source, rng, shape, recipe)
        except _UNREADABLE as error:
            reason = message_of(error)
            if recipe.strict:
                raise UserError(f"{source.path}: {reason} (data.strict is set)") from error
            _warn(source.path, reason)
        source = others[int(rng.integers(len(others)))]
    raise UserError(
        f"none of {TRIES} clips drawn one after the other from {len(others)} can be read, "
        f"the last: {reason}"
    )


def naming_files(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches of worker processes that this process started.

    Raises UserError, which names the file that it was reading, where a worker has been killed.
    """
    try:
        yield from batches
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):  # the words of grain
            raise
        read = " and ".join(_files_of_the_dead()) or "an unknown file"
        raise UserError(
            f"a data worker was killed while it was reading {read}: it may be damaged, or the "
            "machine may have run out of memory (config.data.workers lowers what is needed)"
        ) from error
    finally:
        if hasattr(batches, "close"):  # it is grain's: its workers end and give their memory back
            batches.close()
        for note in _notes():
            note.unlink(missing_ok=True)


def _note_path(parent: int, worker: int) -> pathlib.Path:
    return pathlib.Path(tempfile.gettempdir()) / f"skipsr_reading-{parent}-{worker}"


def _notes() -> list[pathlib.Path]:
    """Those of all workers that this process started."""
    return sorted(pathlib.Path(tempfile.gettempdir()).glob(f"skipsr_reading-{os.getpid()}-*"))


def _files_of_the_dead() -> list[str]:
    """The files that workers of this process were reading when they ended."""
    alive = {process.pid for process in multiprocessing.active_children()}
    dead = [note for note in _notes() if int(note.name.rsplit("-", 1)[1]) not in alive]
    return [os.fsdecode(note.read_bytes()) for note in dead]


@functools.cache
def _open_note() -> int | None:
    """The descriptor of this worker's note; None in a process that is no worker, or without one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return None
    path = _note_path(parent.pid, os.getpid())
    try:
        return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError:  # a full disk, say: the note is for a message alone
        return None


def _note_reading(path: str) -> None:
    note = _open_note()
    if note is not None:
        with contextlib.suppress(OSError):
            os.ftruncate(note, 0)
            os.pwrite(note, os.fsencode(path), 0)


@functools.cache
def _warn(path: str, reason: str) -> None:
    logging.warning("passed over in training, for it cannot be read: %s: %s", path, reason)


@functools.cache
def end_with_parent() -> None:
    """Ends this process soon after the process that started it, however that one ended.

    Does nothing in a process that no other one started.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        _note_path(parent.pid, os.getpid()).unlink(missing_ok=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


def begin_worker(index: int, count: int) -> None:
    """Lets a data worker end with its parent alone.

    Batch systems send SIGTERM, and terminals SIGINT, to all processes of a run: the parent needs
    its workers until it has saved.
    """
    end_with_parent()
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
