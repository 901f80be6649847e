"""How programs are compiled: on GPUs those whose kernels are searched for one at a time.

XLA's GPU compiler runs candidates of kernels on the device and takes the fastest (autotuning).
Programs that are compiled at the same time wait for each other there, disturb each other's times,
and may fail: while one thread captures CUDA work, CUDA refuses some calls of all others. On an H200
the four programs of the tiny autoencoder and its transformer took 27 s one after the other, each on
several cores; compiled at the same time, a run waited 51 s for its programs. Tracing and lowering
need no turn, and compilers of other platforms touch no device. Programs whose speed does not matter
are compiled without the search, and need no turn either.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import jax

from skipsr_jax.errors import first_line
from skipsr_jax.models.layers.convolution_options import FUSION

Compiled = TypeVar("Compiled")
_LOG = logging.getLogger(__name__)
_AUTOTUNING = threading.Lock()
"""Held while a program is compiled for a GPU; of the process, as the device is."""


def compile_for(
    platform: str, compile_program: Callable[..., Compiled], name: str, autotune: bool = True
) -> Compiled:
    """Compiles a program for a platform.

    Args:
      platform: "cpu", "gpu" or "tpu".
      compile_program: ``Lowered.compile`` of the program.
      name: of the program, for messages.
      autotune: False: on GPUs the compiler takes kernels without running them. That compiles faster
        and beside others; matrix products and convolutions may be several times slower.
    """
    if platform == "gpu" and not autotune:
        return compile_program(compiler_options={"xla_gpu_autotune_level": 0})
    return compile_in_turn(compile_program, name, platform)


def compile_in_turn(compile_program: Callable[..., Compiled], name: str, platform: str) -> Compiled:
    """Returns what ``compile_program()`` returns.

    On the platform "gpu" it waits until no other program is being compiled, and calls again where
    compiling failed: kernels that ran meanwhile may have been the reason, or convolutions that
    cuDNN does not fuse, which then run without fusion. ``name``: of the program, for messages.
    """
    if platform != "gpu":
        return compile_program()
    with _AUTOTUNING:
        try:
            return compile_program()
        except jax.errors.JaxRuntimeError as error:
            reason = first_line(error)
            _LOG.warning("%s is compiled once more, because compiling failed: %s", name, reason)
        return compile_program(compiler_options={FUSION: False})
