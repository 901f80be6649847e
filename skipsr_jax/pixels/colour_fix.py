"""Colour fix: the decoded frames take their colour from the upscaled input and keep their detail.

``wavelet`` swaps the low-frequency band: an undecimated (a trous) decomposition with the 3 x 3
binomial kernel, dilated 1, 2, 4, ... pixels, splits a picture into details and a smooth remainder,
and the decoded details are put on the input's remainder. ``adain`` matches the mean and the
standard deviation of each channel of each frame (Huang & Belongie 2017). ``none`` does nothing.

Every frame is fixed by itself, so slices of a clip give the same result as the whole. Values stay
in the range they come in (both pictures in [-1, 1], or both in [0, 1]); the result is not clipped.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

METHODS = ("wavelet", "adain", "none")
WAVELET_LEVELS = 5  # reaches 31 pixels to each side: colour casts, not texture
_DEVIATION_FLOOR = 1e-5  # of a channel that is flat


def _blur_axis(x: Float[Array, "*b h w 3"], axis: int, step: int) -> Float[Array, "*b h w 3"]:
    """(1, 2, 1) / 4 with taps ``step`` pixels apart; beyond the border the edge pixel goes on."""
    size = x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (step, step)
    padded = jnp.pad(x, pad, mode="edge")

    def tap(offset):
        index = [slice(None)] * x.ndim
        index[axis] = slice(offset, offset + size)
        return padded[tuple(index)]

    return (tap(0) + 2 * x + tap(2 * step)) / 4


def smooth(x: Float[Array, "*b h w 3"], levels: int = WAVELET_LEVELS) -> Float[Array, "*b h w 3"]:
    """The remainder of ``levels`` wavelet levels: the low-frequency band."""
    for level in range(levels):
        x = _blur_axis(_blur_axis(x, -3, 2**level), -2, 2**level)
    return x


def wavelet(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*b h w 3"]
) -> Float[Array, "*b h w 3"]:
    """Details of ``frames`` on the low-frequency band of ``reference``."""
    # The band is linear, so the band of the difference is the difference of the bands.
    return frames + smooth(reference - frames)


def adain(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*b h w 3"]
) -> Float[Array, "*b h w 3"]:
    """``frames`` with the mean and deviation of ``reference``, for each frame and channel."""
    space = (-3, -2)
    mean, want_mean = (x.mean(space, keepdims=True) for x in (frames, reference))
    deviation, want_deviation = (x.std(space, keepdims=True) for x in (frames, reference))
    gain = want_deviation / jnp.maximum(deviation, _DEVIATION_FLOOR)
    return (frames - mean) * gain + want_mean


def fix_colour(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*r h2 w2 3"], method: str
) -> Float[Array, "*b h w 3"]:
    """``frames`` with the colour of ``reference`` by one of METHODS, in float32.

    Raises:
      ValueError: an unknown method, or shapes that differ.
    """
    if method not in METHODS:
        raise ValueError(f"unknown colour fix {method!r}; choose one of {', '.join(METHODS)}")
    if frames.shape != reference.shape:
        raise ValueError(
            f"frames {frames.shape} and reference {reference.shape} must be of one shape"
        )
    frames, reference = frames.astype(jnp.float32), reference.astype(jnp.float32)
    if method == "none":
        return frames
    return {"wavelet": wavelet, "adain": adain}[method](frames, reference)
