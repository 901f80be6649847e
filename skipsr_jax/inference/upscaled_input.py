"""The upscaled input of a chunk, made on the device a few frames at a time.

The host holds the input's own bytes alone. The upscaled frames, sixteen times as large at a scale
of 4, are made where and when they are needed, and are not kept. Values are those of
``skipsr_jax.media.resize.upscale``, padded to whole patches by repeating the last row and column.
"""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from skipsr_jax.geometry import SPACE_FACTOR, padded_size
from skipsr_jax.parallel.mesh import on_mesh
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.pixels.resample import bicubic_weights, pad_to_patches, upscale
from skipsr_jax.types import Float, HostArray


@functools.partial(jax.jit, static_argnums=3)
def _upscaled(
    frames: Array,
    rows: Float[Array, "h2 h"],
    columns: Float[Array, "w2 w"],
    signed: bool,
) -> Float[Array, "1 f h3 w3 3"]:
    x = pad_to_patches(upscale(frames, rows, columns))
    return constrain_spatial((2 * x - 1 if signed else x)[None], SPACE_FACTOR)


class UpscaledInput:
    """The upscaled input of one chunk.

    Args:
      frames: of the input, (f, h, w, 3) uint8 or uint16.
      target: (height, width) in pixels.
      mesh: over whose devices each frame lies; None: on the default device.
    """

    def __init__(self, frames: HostArray, target: tuple[int, int], mesh: Mesh | None):
        self.count, self.target = len(frames), target
        self.padded_size = padded_size(*target)
        self._frames = frames
        self._upscale: Callable[..., Array] = on_mesh(mesh, _upscaled)
        self._weights = [jnp.asarray(x) for x in bicubic_weights(frames.shape[1:3], target)]

    def unit(self, part: slice) -> Float[Array, "1 f h w 3"]:
        """Some of the frames, padded to whole patches, in [0, 1]."""
        return self._upscale(self._frames[part], *self._weights, False)

    def signed(self, part: slice) -> Float[Array, "1 f h w 3"]:
        """Some of the frames, padded to whole patches, in [-1, 1] as the autoencoder takes them."""
        return self._upscale(self._frames[part], *self._weights, True)

    def cropped(self, part: slice) -> Float[Array, "f h w 3"]:
        """Some of the frames at the target size, in [0, 1]."""
        height, width = self.target
        return self.unit(part)[0, :, :height, :width]

    def signed_slices(self, slices: Iterable[slice]) -> Iterator[Float[Array, "1 f h w 3"]]:
        """``signed`` of each slice, made when it is asked for."""
        return map(self.signed, slices)
