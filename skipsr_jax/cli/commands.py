"""The entry points of the installed commands, of infer.py and of train.py.

Each imports its program when it is called. So a missing extra ends in one line, and so does a
signal that comes meanwhile; and a data worker, which imports the script of its parent process
again, does not import jax with it.
"""

import atexit
import contextlib
import gc
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

from skipsr_jax import signals
from skipsr_jax.cli.absent_tpu import leave_out_absent_tpu
from skipsr_jax.errors import UserError


def _imported(module: str, status: Callable[[int], int]) -> ModuleType | int:
    """The module, or the exit status where it cannot be imported."""
    name = _name()
    try:
        with signals.ended_at_once(name, status), _without_collection():
            leave_out_absent_tpu()
            if module.endswith("cli.infer"):
                _start_device()
            return importlib.import_module(module)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keeps the garbage collector from all objects that are made inside, now and later.

    Modules live as long as the program. To search them takes a seventh of the time of their import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _start_device() -> None:
    """Starts the device, while the program is imported, unless it only prints its help."""
    if not importlib.import_module("skipsr_jax.commandline").asks_for_help(sys.argv):
        names = {argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:]}
        is_default = names.isdisjoint(("config", "config.checkpoint"))  # the tiny model
        importlib.import_module("skipsr_jax.cli.device_start").start_device(is_small=is_default)


def _name() -> str:
    return pathlib.Path(sys.argv[0]).name


def _start(module: str) -> int:
    """Runs ``main(sys.argv)`` of a module. Returns the exit status."""
    program = _imported(module, signals.status_of)
    if isinstance(program, int):
        return program
    try:
        with signals.raised(_name()):
            status = program.main(sys.argv)
    except signals.Stopped as stopped:
        signals.end(_name(), stopped.number)
    return _ended(status)


def _ended(status: int) -> int:
    """The status of a program that is done; one that a signal stopped ends here.

    It does not wait for threads that still compile, or make batches.
    """
    if isinstance(status, signals.StoppedStatus):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _leave(status: int) -> None:
    """Ends the process at exit, when its threads have ended and before libraries clean up.

    Freeing modules, programs and the device's memory piece by piece takes most of a second.
    """
    with contextlib.suppress(OSError):  # then the interpreter says it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def infer() -> int:
    """Runs skipsr-infer: upscales videos, images and folders of frames."""
    status = _start("skipsr_jax.cli.infer")
    atexit.register(_leave, status)
    return status


def train() -> int:
    """Runs skipsr-train: trains one stage of a model. It handles signals when it begins to."""
    # Python's tracker frees the batches in shared memory that a stopped run leaves, and warns.
    sys.warnoptions.append("ignore:resource_tracker")  # as its -W: the tracker is a process
    program = _imported("skipsr_jax.cli.train", signals.status_of_training)
    if isinstance(program, int):
        return program
    with signals.ended_at_once(_name(), signals.status_of_training):
        return _ended(program.main(sys.argv))


def convert() -> int:
    """Runs skipsr-convert: converts official weights to checkpoints and back."""
    return _start("skipsr_jax.checkpoints.convert")


def export() -> int:
    """Runs skipsr-export: merges the checkpoints of training stages into one model."""
    return _start("skipsr_jax.checkpoints.export")


def data() -> int:
    """Runs skipsr-data: writes videos and pictures as one dataset for training."""
    return _start("skipsr_jax.data.build")
