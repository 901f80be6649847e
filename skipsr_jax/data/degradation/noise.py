"""Sensor noise on clips: Gaussian and Poisson, one for all channels (gray) or one for each.

Values are in [0, 255]; results may leave that range. Invariant: the mean of many results is the
input, and each frame has noise of its own.
"""

import numpy as np

from skipsr_jax.types import Float, HostArray

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601


def add_gaussian(
    frames: Float[HostArray, "f h w 3"], sigma: float, gray: bool, rng: np.random.Generator
) -> Float[HostArray, "f h w 3"]:
    """Noise of standard deviation ``sigma``, in units of 1/255 of white."""
    shape = (*frames.shape[:3], 1 if gray else 3)
    return frames + np.float32(sigma) * rng.standard_normal(shape, np.float32)


def add_poisson(
    frames: Float[HostArray, "f h w 3"], photons: float, gray: bool, rng: np.random.Generator
) -> Float[HostArray, "f h w 3"]:
    """Shot noise of a sensor that counts ``photons`` at white: brighter pixels are noisier.

    With ``gray`` the noise of the luma is added to all channels.
    """
    light = frames @ _LUMA[:, None] if gray else frames
    expected = np.clip(light, 0, 255) * np.float32(photons / 255)
    counted = rng.poisson(expected).astype(np.float32)
    return frames + (counted - expected) * np.float32(255 / photons)
