"""Features of the pixel-space mask predictor: local energies of the low-resolution frames.

Eq. 1 compares an energy, the squared detail that downsampling loses, with a threshold. The input
has lost the finest octaves, but the energies of its own fine bands say how much lay above them. So
learned filters of mean zero run over each frame. Their squares are averaged over cells of 2 x 2
pixels and the 4 frames of a patch, and the features are the logarithms of that and the cells' mean
colour. A cell is where a latent pixel of the 4 x larger target lies, so the grid is the latent's,
and the layers after it are the latent predictor's own.

Everything is computed in float32: bfloat16 cannot resolve squared differences of few grey levels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import PATCH_FRAMES
from skipsr_jax.models.layers.initial import drawn
from skipsr_jax.tokens.criterion import TAU
from skipsr_jax.types import DType, Float

CELL = 2
"""Pixels of a cell's side: 8 at the target, 4 times larger."""
TAPS = 5
"""Pixels of a filter's side."""
FLOOR = 0.01
"""Added to energies (in units of tau) before the logarithm: what 8-bit rounding leaves."""


def channels(filters: int) -> int:
    """Channels that ``PixelEnergies`` makes of so many filters."""
    return filters + 3


def _unit_filters(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Random filters (height, width, colour, filter) of mean zero and norm one."""
    x = jax.random.normal(key, shape)
    x = x - x.mean(axis=(0, 1), keepdims=True)
    return (x / jnp.linalg.norm(x.reshape(-1, shape[-1]), axis=0)).astype(dtype)


def _groups(frames: Float[Array, "b f h w 3"]) -> Float[Array, "t b frames h w 3"]:
    """The 4 frames of each patch in time; the first patch is its one frame, 4 times."""
    first = jnp.repeat(frames[:, :1], PATCH_FRAMES - 1, axis=1)
    b, _, h, w, c = frames.shape
    grouped = jnp.concatenate([first, frames], axis=1).reshape(b, -1, PATCH_FRAMES, h, w, c)
    return jnp.moveaxis(grouped, 1, 0)


def _cell_means(x: Float[Array, "b frames h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """Means over the frames of a group and the pixels of each cell."""
    b, frames, h, w, c = x.shape
    return x.reshape(b, frames, h // CELL, CELL, w // CELL, CELL, c).mean(axis=(1, 3, 5))


class PixelEnergies(nnx.Module):
    """Frames of the low-resolution input in [0, 1] -> ``channels(filters)`` numbers a cell."""

    def __init__(self, filters: int, *, rngs: nnx.Rngs, param_dtype: DType = jnp.float32):
        shape = (TAPS, TAPS, 3, filters)
        self.kernel = drawn(_unit_filters, rngs, shape, param_dtype)

    def __call__(self, frames: Float[Array, "b f h w 3"]) -> Float[Array, "b t h//2 w//2 c"]:
        """f = 4k + 1 frames of even height and width -> t = k + 1, in cells of 2 x 2 pixels."""
        kernel = self.kernel[...].astype(jnp.float32)
        kernel = kernel - kernel.mean(axis=(0, 1), keepdims=True)
        reach = TAPS // 2

        def of_group(group: Float[Array, "b frames h w 3"]) -> Float[Array, "b h//2 w//2 c"]:
            b, frames, h, w, _ = group.shape
            x = group.reshape(b * frames, h, w, 3)
            x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
            bands = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
            )  # fmt: skip
            energies = _cell_means(jnp.square(bands.reshape(b, frames, h, w, -1)))
            colours = 2 * _cell_means(group) - 1
            return jnp.concatenate([jnp.log(energies / TAU + FLOOR), colours], axis=-1)

        # One group at a time: the bands of a long 4K clip would fill the memory.
        return jnp.moveaxis(jax.lax.map(of_group, _groups(frames.astype(jnp.float32))), 0, 1)
