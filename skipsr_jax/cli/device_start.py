"""Starts the device in a thread, while the main thread imports the program.

The driver of a GPU and its memory take seconds to start, and need little of Python meanwhile.
"""

import os
import threading

import jax
import numpy as np

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""The environment variable that says whether JAX takes its share of a GPU's memory at its start."""


def start_device(is_small: bool) -> threading.Thread:
    """Begins to start JAX's first device, and returns the thread.

    A device that cannot be started is no error here: whoever asks for it next gets it.

    Args:
      is_small: whether the model takes a small part of a GPU's memory. The memory is then taken as
        it is needed, unless the environment says otherwise: on an H200 that saves 0.7 s and 3 GiB
        of the host's memory. A large model needs it in one piece.
    """
    if is_small:
        os.environ.setdefault(PREALLOCATE, "false")

    def start() -> None:
        try:
            jax.block_until_ready(jax.device_put(np.zeros(1, np.float32)))  # takes its memory, too
        except RuntimeError:
            return

    thread = threading.Thread(target=start, name="start device")
    thread.start()
    return thread
