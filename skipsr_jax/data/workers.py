"""What a data worker does besides making samples: it passes over bad files, and ends when alone.

Invariant: a batch is a function of its index and of the files alone, also where some are damaged.
"""

import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Sequence

import av
import numpy as np

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.sample import Recipe, Sample, make_sample
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, message_of

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
        try:
            return make_sample(source, rng, shape, recipe)
        except _UNREADABLE as error:
            reason = message_of(error)
            if recipe.strict:
                raise UserError(f"{source.path}: {reason} (data.strict is set)") from error
            _warn(source.path, reason)
        source = others[int(rng.integers(len(others)))]
    raise UserError(f"{TRIES} of {len(others)} clips in a row cannot be read, the last: {reason}")


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
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()
