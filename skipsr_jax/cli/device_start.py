"""Starts the device in a thread, while the main thread imports the program.

The driver of a GPU and its memory take seconds to start, and need little of Python meanwhile.
"""

import threading

import jax
import numpy as np


def start_device() -> threading.Thread:
    """Begins to start JAX's first device, and returns the thread.

    A device that cannot be started is no error here: whoever asks for it next gets it.
    """

    def start() -> None:
        try:
            jax.block_until_ready(jax.device_put(np.zeros(1, np.float32)))  # takes its memory, too
        except RuntimeError:
            return

    thread = threading.Thread(target=start, name="start device")
    thread.start()
    return thread
