"""The turn in which programs are compiled: on GPUs one at a time.

XLA's GPU compiler runs candidates of kernels on the device and takes the fastest (autotuning).
Programs that are compiled at the same time wait for each other there, disturb each other's times,
and may fail: while one thread captures CUDA work, CUDA refuses some calls of all others. On an H200
the four programs of the tiny autoencoder and its transformer took 27 s one after the other, each on
several cores; compiled at the same time, a run waited 51 s for its programs. Tracing and lowering
need no turn, and compilers of other platforms touch no device.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import jax

Compiled = TypeVar("Compiled")
_LOG = logging.getLogger(__name__)
_AUTOTUNING = threading.Lock()
"""Held while a program is compiled for a GPU; of the process, as the device is."""


def compile_in_turn(compile_program: Callable[[], Compiled], name: str, platform: str) -> Compiled:
    """Returns what ``compile_program()`` returns.

    On the platform "gpu" it waits until no other program is being compiled, and calls again where
    compiling failed, because kernels that ran meanwhile may have been the reason. ``name``: of the
    program, for messages.
    """
    if platform != "gpu":
        return compile_program()
    with _AUTOTUNING:
        try:
            return compile_program()
        except jax.errors.JaxRuntimeError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            _LOG.warning("%s is compiled once more, because compiling failed: %s", name, first)
        return compile_program()
