"""The upscaled input of a chunk, made on the device a few frames at a time.

The host holds the input's own bytes alone; what is sixteen times as large appears where and when
it is needed, and goes. Values are those of ``skipsr_jax.media.resize.upscale``, padded to whole
patches by repeating the last row and column.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from skipsr_jax.geometry import SPACE_FACTOR, padded_size
from skipsr_jax.media.resize import weights
from skipsr_jax.parallel.mesh import on_mesh
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.pixels.resample import resample
from skipsr_jax.types import Float, HostArray


@functools.partial(jax.jit, static_argnums=3)
def _upscaled(
    frames: Array,
    rows: Float[Array, "u h"],
    columns: Float[Array, "v w"],
    signed: bool,
) -> Float[Array, "1 f u2 v2 3"]:
    unit = frames.astype(jnp.float32) * np.float32(1 / np.iinfo(frames.dtype).max)
    x = jnp.clip(resample(unit, rows, columns), 0, 1)
    height, width = padded_size(*x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)), mode="edge")
    return constrain_spatial((2 * x - 1 if signed else x)[None], SPACE_FACTOR)


class UpscaledInput:
    """``frames``: of the input, uint8 or uint16, (f, h, w, 3). ``target``: (height, width)."""

    def __init__(self, frames: HostArray, target: tuple[int, int], mesh: Mesh | None):
        self._frames = frames
        self._run: Callable[..., Array] = on_mesh(mesh, _upscaled)
        sides = zip(frames.shape[1:3], target, strict=True)
        self._weights = [jnp.asarray(weights(side, out, "bicubic")) for side, out in sides]

    def unit(self, part: slice) -> Float[Array, "1 s h w 3"]:
        """Some of the frames in [0, 1]."""
        return self._run(self._frames[part], *self._weights, False)

    def signed(self, part: slice) -> Float[Array, "1 s h w 3"]:
        """Some of the frames in [-1, 1], as the autoencoder takes them."""
        return self._run(self._frames[part], *self._weights, True)
