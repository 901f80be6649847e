"""The upscaled input of a chunk, made on the device a few frames at a time.

The host holds the input's own bytes alone. The upscaled frames, sixteen times as large at a scale
of 4, are made where and when they are needed, and are not kept. Values are those of
``skipsr_jax.media.resize.upscale``, padded to whole patches by repeating the last row and column.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR, padded_size
from skipsr_jax.inference.program_cache import Program
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.pixels.resample import bicubic_weights, pad_to_patches, upscale
from skipsr_jax.types import Float, HostArray


@functools.partial(jax.jit, static_argnames=("signed", "crop"))
def upscale_slice(
    frames: Array,
    rows: Float[Array, "h2 h"],
    columns: Float[Array, "w2 w"],
    signed: bool = False,
    crop: bool = False,
) -> Float[Array, "1 f h3 w3 3"] | tuple[Float[Array, "h2 w2 3"], ...]:
    """Frames at the target size: padded to whole patches, or, with ``crop``, one by one."""
    x = upscale(frames, rows, columns)
    if crop:
        return tuple(x)
    x = pad_to_patches(x)
    return constrain_spatial((2 * x - 1 if signed else x)[None], SPACE_FACTOR)


class UpscaledInput:
    """The upscaled input of one chunk.

    Args:
      frames: of the input, (f, h, w, 3) uint8 or uint16.
      target: (height, width) in pixels.
      program: ``upscale_slice``, compiled.
    """

    def __init__(self, frames: HostArray, target: tuple[int, int], program: Program):
        self.count, self.target = len(frames), target
        self.padded_size = padded_size(*target)
        self._frames = frames
        self._upscale = program
        self._weights = [jax.device_put(x) for x in bicubic_weights(frames.shape[1:3], target)]

    def unit(self, part: slice) -> Float[Array, "1 f h w 3"]:
        """Some of the frames, padded to whole patches, in [0, 1]."""
        return self._upscale(self._frames[part], *self._weights)

    def signed(self, part: slice) -> Float[Array, "1 f h w 3"]:
        """Some of the frames, padded to whole patches, in [-1, 1] as the autoencoder takes them."""
        return self._upscale(self._frames[part], *self._weights, signed=True)

    def cropped(self, part: slice) -> tuple[Float[Array, "h w 3"], ...]:
        """Some of the frames at the target size, one by one, in [0, 1]."""
        return self._upscale(self._frames[part], *self._weights, crop=True)

    def signed_slices(self, slices: Iterable[slice]) -> Iterator[Float[Array, "1 f h w 3"]]:
        """``signed`` of each slice, made when it is asked for."""
        return map(self.signed, slices)
