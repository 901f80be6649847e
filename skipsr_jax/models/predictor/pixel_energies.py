"""Features of the pixel-space mask predictor: local energies of the low-resolution frames.

Eq. 1 compares an energy, the squared detail that downsampling loses, with a threshold. The input
has lost the finest octaves, but the energies of its own fine bands say how much lay above them. So
learned filters of mean zero run over each frame at its own resolution. Their squares are averaged
over the 4 frames of a patch and over cells of 8 x 8 pixels of the target, and the features are the
logarithms of that and the cells' mean colour. A cell is where a latent pixel lies, so the grid is
the latent's at any factor, and the layers after it are the latent predictor's own.

Filters run in float32 with at least TensorFloat-32's precision: bfloat16 cannot resolve squared
differences of few grey levels. Sums over cells are float32 throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from skipsr_jax.geometry import PATCH, PATCH_FRAMES, SPACE_FACTOR, token_grid
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.layers.initial import drawn
from skipsr_jax.tokens.criterion import TAU, cover
from skipsr_jax.types import DType, Float, HostArray

CELL = 2
"""Pixels of a cell's side in an input that is 4 times smaller than the target."""
TAPS = 5
"""Pixels of a filter's side."""
FLOOR = 0.01
"""Added to energies (in units of tau) before the logarithm: what 8-bit rounding leaves."""
BAND_BYTES, CPU_BAND_BYTES = 2**29, 2**26
"""What the filtered frames of the groups that run together may take, and the same on a CPU, which
gains little by running several: 33 frames of 320x180 took 1.9 s of processor time and 863 MiB
together, and 2.5 s and 279 MiB one by one."""
MIRROR_AXES = ((), (2,), (3,), (2, 3))
"""Axes of (b, f, h, w, ...) along which a frame is mirrored, for each of its four images."""

CellWeights = tuple[Float[Array | HostArray, "h2 h"], Float[Array | HostArray, "w2 w"]]
"""Matrices that average over the cells along rows and along columns."""


def channels(filters: int) -> int:
    """Channels that ``PixelEnergies`` makes of so many filters."""
    return filters + 3


def cell_weights(size: tuple[int, int], target: tuple[int, int]) -> CellWeights:
    """The means over cells of 8 x 8 target pixels, for frames of ``size`` (height, width).

    There are two cells a patch along each axis, padding included: (2 r, h) and (2 q, w).
    """
    _, *patches = token_grid(1, *target)
    rows, columns = (
        cover(PATCH * count, SPACE_FACTOR, pixels, side)
        for count, pixels, side in zip(patches, size, target, strict=True)
    )
    return rows, columns


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


def _mirrored_filters(kernel: Float[Array, "h w 3 c"]) -> Float[Array, "h w 3 c4"]:
    """The filters and their mirror images, in the order of ``MIRROR_AXES``."""
    images = [jnp.flip(kernel, [axis - 2 for axis in axes]) for axes in MIRROR_AXES]
    return jnp.concatenate(images, axis=-1)


class PixelEnergies(nnx.Module):
    """Frames of the low-resolution input in [0, 1] -> ``channels(filters)`` numbers a cell.

    The features of the four mirror images of a picture are made together: a filter's energies in a
    mirrored picture are the mirrored filter's energies in the picture.
    """

    def __init__(self, filters: int, *, rngs: nnx.Rngs, param_dtype: DType = jnp.float32):
        shape = (TAPS, TAPS, 3, filters)
        self.kernel = drawn(_unit_filters, rngs, shape, param_dtype)

    def __call__(
        self, frames: Float[Array, "b f h w 3"], weights: CellWeights | None = None
    ) -> list[Float[Array, "b t h2 w2 c"]]:
        """Returns the features of each mirror image, in the order of ``MIRROR_AXES``.

        Args:
          frames: f = 4k + 1.
          weights: as ``cell_weights`` makes them, of height h2 and width w2; None: cells of 2 x 2
            pixels, which must divide the frames.
        """
        if weights is None:
            height, width = frames.shape[2:4]
            weights = cell_weights((height, width), (4 * height, 4 * width))
        kernel = self.kernel[...].astype(jnp.float32)
        kernel = _mirrored_filters(kernel - kernel.mean(axis=(0, 1), keepdims=True))
        reach = TAPS // 2

        def of_group(group: Float[Array, "b frames h w 3"]) -> Float[Array, "b h2 w2 c"]:
            b, frames, h, w, _ = group.shape
            x = group.reshape(b * frames, h, w, 3)
            x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
            bands = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="high",
            )  # fmt: skip
            squares = jnp.square(bands).reshape(b, frames, h, w, -1).mean(axis=1)
            sums = jnp.concatenate([squares, group.mean(axis=1)], axis=-1)
            sums = jnp.einsum("bhwc,Ww->bhWc", sums, weights[1], precision="highest")
            return jnp.einsum("bhWc,Hh->bHWc", sums, weights[0], precision="highest")

        groups = _groups(frames.astype(jnp.float32))
        # A few groups at a time: the bands of a long 4K clip would fill the memory.
        size = groups[0].size // 3 * kernel.shape[-1] * 4
        limit = CPU_BAND_BYTES if current_target().platform == "cpu" else BAND_BYTES
        together = int(np.clip(limit // size, 1, len(groups)))
        cells = jax.lax.map(of_group, groups, batch_size=together)
        energies, colours = jnp.split(jnp.moveaxis(cells, 0, 1), [kernel.shape[-1]], axis=-1)
        energies = jnp.split(jnp.log(energies / TAU + FLOOR), len(MIRROR_AXES), axis=-1)
        return [
            jnp.flip(jnp.concatenate([x, 2 * colours - 1], axis=-1), axes)
            for x, axes in zip(energies, MIRROR_AXES, strict=True)
        ]
