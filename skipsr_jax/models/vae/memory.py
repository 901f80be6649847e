"""How much device memory a slice of a clip takes, and into how many strips it is cut to fit.

Counted from shapes: parameters, what slices hand over, and the largest arrays that are alive
together, in the two finest levels, where nearly all of it is. Strips make what lies within a layer
smaller; what goes into and out of layers, and what slices hand over, stays whole.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.vae.model import VAE

_REST = 1.2
"""What fragmentation and small arrays add to the largest ones. With it 720p and 1080p on an H200
were foreseen to within 1 % in decoding and a fifth too high in encoding."""


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _carry_bytes(vae: VAE, height: int, width: int, decode: bool) -> int:
    size = (height // SPACE_FACTOR, width // SPACE_FACTOR)
    picture = jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.float32)
    latent = jax.ShapeDtypeStruct((1, 1, *size, vae.config.latent_channels), jnp.float32)
    upscaled = picture if vae.config.residual_decoder else None
    params = to_dict(vae)
    if decode:
        return _bytes(
            jax.eval_shape(
                lambda p, z, x: bind(vae, p).decode(z, None, x)[1], params, latent, upscaled
            )
        )
    return _bytes(jax.eval_shape(lambda p, x: bind(vae, p).encode(x)[1], params, picture))


def _frame_bytes(vae: VAE, height: int, width: int, latents: int, strips: int, decode: bool) -> int:
    """The largest sum of arrays alive at once in a resnet of the two finest levels, and frames."""
    frames, itemsize = TIME_FACTOR * latents, jnp.dtype(vae.dtype).itemsize
    pixels = height * width
    fine, middle, coarse = vae.config.block_channels[:3]
    if decode:  # the first resnet of a level narrows
        levels = ((pixels, middle, fine), (pixels // 4, coarse, middle))
    else:
        levels = ((pixels, fine, fine), (pixels // 4, fine, middle))
    found = []
    for area, wide, out in levels:
        for channels, held in ((wide, wide), (out, wide + out)):  # its two convolutions
            joined = (frames + 2) * channels
            part = (joined + (frames * out if strips > 1 else 0)) / strips
            found.append(area * itemsize * (frames * (held + out) + part))
    shown = 2 * 3 * 4 * frames * pixels  # float32, going in and coming out
    return math.ceil(_REST * max(found)) + shown


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on the device of a later slice of ``latents`` latent frames, encoded or decoded.

    Attributes:
      params: held all the time.
      strips: at most, for each possible number of strips, two rows of latents or more in each.
    """

    params: int
    strips: dict[int, int]

    @property
    def least(self) -> int:
        """In the most strips."""
        return min(self.strips.values())

    def strips_within(self, budget: int) -> int:
        """The fewest strips within ``budget`` bytes. ValueError with what is needed if none is."""
        for strips, size in self.strips.items():
            if size <= budget:
                return strips
        raise ValueError(
            f"the autoencoder takes {self.least / 2**30:.3g} GiB even in strips, and "
            f"{budget / 2**30:.3g} are given"
        )


def need(vae: VAE, height: int, width: int, latents: int) -> Need:
    """Of pictures of ``height`` x ``width`` pixels, multiples of 8. Traces, runs nothing."""
    params, rows = _bytes(to_dict(vae)), height // SPACE_FACTOR
    carries = {way: _carry_bytes(vae, height, width, way) for way in (False, True)}

    def largest(strips: int) -> int:
        return params + max(
            carry + _frame_bytes(vae, height, width, latents, strips, way)
            for way, carry in carries.items()
        )

    possible = (n for n in range(1, max(rows // 2, 1) + 1) if rows % n == 0)
    return Need(params, {strips: largest(strips) for strips in possible})
