"""Blur kernels of cameras and of careless resizing, and the convolution of a clip with one.

Gaussians, round or elongated, stand for defocus and motion; the sinc kernel is the impulse response
of an ideal circular low-pass filter, cut off at the kernel's edge, and rings as overshot sharpening
and strong compression do. Invariant: a kernel sums to one, so a constant picture stays constant.
"""

import math

import numpy as np

from skipsr_jax.types import Float, HostArray

_BESSEL_STEPS = 256
"""Of the trapezoid rule; exact to float64 for arguments well below this number."""


def _grid(radius: int) -> tuple[Float[HostArray, "1 k"], Float[HostArray, "k 1"]]:
    steps = np.arange(-radius, radius + 1, dtype=np.float64)
    return steps[None], steps[:, None]


def gaussian(radius: int, sigma_x: float, sigma_y: float, angle: float) -> Float[HostArray, "k k"]:
    """A Gaussian of ``2 radius + 1`` pixels; sigmas in pixels along axes turned by ``angle``."""
    if min(sigma_x, sigma_y) <= 0 or radius < 0:
        raise ValueError(f"sigmas {sigma_x}, {sigma_y} must be above 0 and radius {radius} >= 0")
    x, y = _grid(radius)
    along = (math.cos(angle) * x + math.sin(angle) * y) / sigma_x
    across = (math.cos(angle) * y - math.sin(angle) * x) / sigma_y
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return (kernel / kernel.sum()).astype(np.float32)


def bessel_j1(x: Float[HostArray, "..."]) -> Float[HostArray, "..."]:
    """The Bessel function J1, by the mean of cos(t - x sin t) over a turn (Bessel's integral)."""
    turn = 2 * np.pi * np.arange(_BESSEL_STEPS) / _BESSEL_STEPS
    return np.cos(turn - np.asarray(x)[..., None] * np.sin(turn)).mean(-1)


def sinc(radius: int, cutoff: float) -> Float[HostArray, "k k"]:
    """The low-pass kernel with ``cutoff`` in radians per pixel, above 0 and up to pi."""
    if not 0 < cutoff <= math.pi or radius < 0:
        raise ValueError(f"cutoff {cutoff} must be in (0, pi] and radius {radius} >= 0")
    x, y = _grid(radius)
    distance = np.hypot(x, y)
    centre = distance == 0
    distance[centre] = 1.0
    kernel = cutoff * bessel_j1(cutoff * distance) / (2 * np.pi * distance)
    kernel[centre] = cutoff**2 / (4 * np.pi)  # the limit: J1(x) / x -> 1/2
    return (kernel / kernel.sum()).astype(np.float32)


def convolve(
    frames: Float[HostArray, "f h w c"], kernel: Float[HostArray, "k k"]
) -> Float[HostArray, "f h w c"]:
    """Each frame and channel with the kernel, float32; borders mirror the picture.

    Through the Fourier transform: for kernels above some seven pixels far faster than sums.
    """
    radius = kernel.shape[0] // 2
    _, height, width, _ = frames.shape
    edge = ((0, 0), (radius, radius), (radius, radius), (0, 0))
    padded = np.pad(np.asarray(frames, np.float32), edge, mode="symmetric")
    size = padded.shape[1:3]
    response = np.fft.rfft2(kernel, size)[None]
    out = np.empty((len(frames), height, width, frames.shape[3]), np.float32)
    for channel in range(frames.shape[3]):
        plane = np.fft.irfft2(np.fft.rfft2(padded[..., channel]) * response, size)
        # The full convolution starts ``radius`` before the padded picture, hence twice radius here.
        out[..., channel] = plane[:, 2 * radius :, 2 * radius :]
    return out
