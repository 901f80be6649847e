"""An estimate of the device memory that a slice takes, and of the spatial tiles that make it fit.

The estimate is counted from shapes. It is the sum of the parameters, the cache between slices, and
the largest arrays that are alive together in the two finest levels, where nearly all of the memory
is. Spatial tiles make the arrays within a layer smaller. The inputs and outputs of layers and the
cache stay whole.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.params import abstract, bind, nbytes, to_dict
from skipsr_jax.models.vae.config import VAEConfig
from skipsr_jax.models.vae.model import VAE

_OVERHEAD = 1.2
"""Factor on the largest arrays, for fragmentation and small arrays. With it the estimates for 720p
and 1080p on an H200 were within 1 % of the measured peak in decoding and a fifth too high in
encoding."""
_REFERENCE_SIDE = 512
"""Pixels of the side of the picture on which the cache is counted; small ones keep more."""


@functools.cache
def _cache_bytes_per_pixel(
    config: VAEConfig, dtype: np.dtype, format: Format | None, decode: bool
) -> float:
    """Bytes of the cache that one slice leaves to the next, for each pixel of a frame.

    It depends on nothing else: layers keep frames of their inputs. So it is counted once, on a
    small picture, by tracing one slice.
    """
    kinds = {"dtype": dtype, "param_dtype": dtype, "format": format}
    vae = abstract(lambda rngs: VAE(config, rngs=rngs, **kinds))
    side = _REFERENCE_SIDE // SPACE_FACTOR
    frame = jax.ShapeDtypeStruct((1, 1, _REFERENCE_SIDE, _REFERENCE_SIDE, 3), jnp.float32)
    latent = jax.ShapeDtypeStruct((1, 1, side, side, config.latent_channels), jnp.float32)
    upscaled = frame if config.residual_decoder else None
    params = to_dict(vae)
    if decode:
        cache = jax.eval_shape(
            lambda p, z, x: bind(vae, p).decode(z, None, x)[1], params, latent, upscaled
        )
    else:
        cache = jax.eval_shape(lambda p, x: bind(vae, p).encode(x)[1], params, frame)
    return nbytes(cache) / _REFERENCE_SIDE**2


def _activation_bytes(
    vae: VAE, height: int, width: int, frames: int, tiles: int, decode: bool
) -> int:
    """The largest sum of arrays alive at once in a resnet of the two finest levels, and frames.

    The input of a convolution with fp8 products is counted as if it were in ``vae.dtype``.
    """
    itemsize = jnp.dtype(vae.dtype).itemsize
    pixels = height * width
    fine, middle, coarse = vae.config.block_channels[:3]
    if decode:  # the first resnet of a level narrows
        levels = ((pixels, middle, fine), (pixels // 4, coarse, middle))
    else:
        levels = ((pixels, fine, fine), (pixels // 4, fine, middle))
    sums = []
    for area, features_in, features_out in levels:
        # (input channels, channels alive besides) of its two convolutions
        convolutions = ((features_in, features_in), (features_out, features_in + features_out))
        for channels, alive in convolutions:
            with_cached = (frames + 2) * channels
            tile = (with_cached + (frames * features_out if tiles > 1 else 0)) / tiles
            sums.append(area * itemsize * (frames * (alive + features_out) + tile))
    inputs_and_outputs = 2 * 3 * 4 * frames * pixels  # float32
    return math.ceil(_OVERHEAD * max(sums)) + inputs_and_outputs


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device while a slice, not the first, is encoded or decoded.

    Attributes:
      params: bytes of the parameters, which are held all the time.
      by_tiles: peak bytes, parameters included, for each possible number of spatial tiles. Every
        tile has at least two rows of latents, unless there is only one tile.
    """

    params: int
    by_tiles: dict[int, int]

    @property
    def smallest(self) -> int:
        """Peak bytes with the most tiles."""
        return min(self.by_tiles.values())

    def tiles_within(self, budget: int) -> int:
        """The fewest tiles whose peak is at most ``budget`` bytes. ValueError if there are none."""
        for tiles, size in self.by_tiles.items():
            if size <= budget:
                return tiles
        raise ValueError(
            f"the autoencoder takes {self.smallest / 2**30:.3g} GiB even in {max(self.by_tiles)} "
            f"spatial tiles, and the limit is {budget / 2**30:.3g} GiB"
        )


def estimate_memory(
    vae: VAE, height: int, width: int, latents: int, picture: bool = False
) -> MemoryEstimate:
    """The memory of slices of ``latents`` latent frames, of ``height`` x ``width`` pixels.

    Both sides are multiples of 8. ``vae`` may be abstract: this runs nothing. ``picture``: of the
    one slice of a clip of one frame.
    """
    frames = 1 if picture else TIME_FACTOR * latents
    params, rows = nbytes(to_dict(vae)), height // SPACE_FACTOR
    dtype = np.dtype(vae.dtype)
    caches = {
        decode: int(height * width * _cache_bytes_per_pixel(vae.config, dtype, vae.format, decode))
        for decode in (False, True)
    }

    def peak(tiles: int) -> int:
        return params + max(
            cache + _activation_bytes(vae, height, width, frames, tiles, decode)
            for decode, cache in caches.items()
        )

    possible = (n for n in range(1, max(rows // 2, 1) + 1) if rows % n == 0)
    return MemoryEstimate(params, {tiles: peak(tiles) for tiles in possible})
