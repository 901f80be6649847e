"""How much device memory a slice of a clip takes, and into how many strips it is cut to fit.

Counted from shapes: parameters, what slices hand over, and the largest arrays that are alive
together, in the two finest levels, where nearly all of it is. Strips make what lies within a layer
smaller; what goes into and out of layers, and what slices hand over, stays whole.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from skipsr_jax.models.vae import SPACE_FACTOR, TIME_FACTOR, VAE
from skipsr_jax.nn.params import bind, to_dict

_REST = 1.2
"""What fragmentation and the small arrays add to the largest ones; measured 1.0 to 1.2."""


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of a later slice on the device, by what they hold."""

    params: int
    carry: int
    frames: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.params + self.carry + self.frames


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _within_a_layer(vae: VAE, pixels: int, latents: int, strips: int, decode: bool) -> int:
    """The largest sum of arrays that are alive at once in a resnet of the two finest levels."""
    config = vae.config
    frames, itemsize = TIME_FACTOR * latents, jnp.dtype(vae.dtype).itemsize
    fine, middle, coarse = config.block_channels[:3]
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
    return math.ceil(max(found))


def need(vae: VAE, height: int, width: int, latents: int, strips: int, decode: bool) -> Need:
    """Of one later slice of ``latents`` latent frames of ``height`` x ``width`` pixels."""
    params = to_dict(vae)
    size = (height // SPACE_FACTOR, width // SPACE_FACTOR)
    first = (1, 1, *size, vae.config.latent_channels) if decode else (1, 1, height, width, 3)
    given = [jax.ShapeDtypeStruct(first, jnp.float32)]
    if decode and vae.config.residual_decoder:
        given.append(jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.float32))

    def run(params, x, upscaled=None):
        module = bind(vae, params)
        return module.decode(x, None, upscaled)[1] if decode else module.encode(x)[1]

    carry = _bytes(jax.eval_shape(run, params, *given))
    pixels = height * width
    inside = _within_a_layer(vae, pixels, latents, strips, decode)
    shown = 2 * 3 * 4 * TIME_FACTOR * latents * pixels  # float32 frames, going in and out
    return Need(_bytes(params), carry, math.ceil(_REST * inside) + shown)


def strips_to_fit(vae: VAE, height: int, width: int, latents: int, budget: int) -> int:
    """The fewest strips with which encoding and decoding stay within ``budget`` bytes.

    Raises ValueError with what is needed at least, when no number does.
    """
    rows = height // SPACE_FACTOR
    least = 0
    for strips in (n for n in range(1, rows // 2 + 1) if rows % n == 0):
        needs = (need(vae, height, width, latents, strips, decode) for decode in (False, True))
        least = max(one.total for one in needs)
        if least <= budget:
            return strips
    raise ValueError(
        f"{width}x{height} pixels, {latents} latent frames at a time, take {least / 2**30:.1f} GiB "
        f"of device memory even in strips; the budget is {budget / 2**30:.1f} GiB"
    )
