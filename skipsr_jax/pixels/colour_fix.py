"""Colour fix: the decoded frames take their colour from the upscaled input and keep their detail.

``wavelet`` swaps the low-frequency band: an undecimated (a trous) decomposition with the 3 x 3
binomial kernel, dilated 1, 2, 4, ... pixels, splits a picture into details and a smooth remainder,
and the decoded details are put on the input's remainder. ``adain`` matches the mean and the
standard deviation of each channel of each frame (Huang & Belongie 2017). ``none`` does nothing.

Every frame is fixed by itself, so slices of a clip give the same result as the whole. Values stay
in the range they come in (both pictures in [-1, 1], or both in [0, 1]); the result is not clipped.
"""

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

METHODS = ("wavelet", "adain", "none")
WAVELET_LEVELS = 5
"""The low-frequency band of this many levels averages over 31 pixels to each side: it holds colour
casts and no texture."""
_DEVIATION_FLOOR = 1e-5  # keeps the gain of a constant channel finite


def _blur_axis(x: Float[Array, "*b h w 3"], axis: int, step: int) -> Float[Array, "*b h w 3"]:
    """(1, 2, 1) / 4 with taps ``step`` pixels apart; pixels beyond the border repeat the edge."""
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
    """The low-frequency band: what remains below ``levels`` levels of wavelet details."""
    for level in range(levels):
        x = _blur_axis(_blur_axis(x, -3, 2**level), -2, 2**level)
    return x


def wavelet(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*b h w 3"]
) -> Float[Array, "*b h w 3"]:
    """The details of ``frames`` on the low-frequency band of ``reference``."""
    # The band is linear, so the band of the difference is the difference of the bands.
    return frames + smooth(reference - frames)


def adain(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*b h w 3"]
) -> Float[Array, "*b h w 3"]:
    """``frames`` with the mean and deviation of ``reference``, in each channel of each frame."""
    space = (-3, -2)
    mean, reference_mean = (x.mean(space, keepdims=True) for x in (frames, reference))
    deviation, reference_deviation = (x.std(space, keepdims=True) for x in (frames, reference))
    gain = reference_deviation / jnp.maximum(deviation, _DEVIATION_FLOOR)
    return (frames - mean) * gain + reference_mean


@jax.named_scope("colour_fix")
def fix_colour(
    frames: Float[Array, "*b h w 3"], reference: Float[Array, "*b2 h2 w2 3"], method: str
) -> Float[Array, "*b h w 3"]:
    """``frames`` with the colours of ``reference``, in float32.

    Args:
      frames, reference: of one shape and in one value range, [0, 1] or [-1, 1].
      method: one of METHODS.

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
