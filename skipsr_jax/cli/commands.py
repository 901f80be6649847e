"""The entry points of the installed commands, of infer.py and of train.py.

Each imports its program when it is called. So a missing extra ends in one line, and a data worker,
which imports the script of its parent process again, does not import jax with it.
"""

import importlib
import pathlib
import sys

from skipsr_jax.commandline import asks_for_help
from skipsr_jax.errors import UserError


def _start(module: str) -> int:
    """Runs ``main(sys.argv)`` of a module. Returns the exit status."""
    try:
        program = importlib.import_module(module)
    except UserError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    return program.main(sys.argv)


def infer() -> int:
    """Runs skipsr-infer: upscales videos, images and folders of frames.

    The device starts while the program is imported.
    """
    if not asks_for_help(sys.argv):
        importlib.import_module("skipsr_jax.cli.device_start").start_device()
    return _start("skipsr_jax.cli.infer")


def train() -> int:
    """Runs skipsr-train: trains one stage of a model."""
    return _start("skipsr_jax.cli.train")


def convert() -> int:
    """Runs skipsr-convert: converts official weights to checkpoints and back."""
    return _start("skipsr_jax.checkpoints.convert")


def export() -> int:
    """Runs skipsr-export: merges the checkpoints of training stages into one model."""
    return _start("skipsr_jax.checkpoints.export")


def data() -> int:
    """Runs skipsr-data: writes videos and pictures as one dataset for training."""
    return _start("skipsr_jax.data.build")
