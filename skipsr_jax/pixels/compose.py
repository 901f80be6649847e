"""Composites computed and skipped patches, in latents and in pixels.

In latents, kept patches take the transformer's result, and skipped ones the latent of the input
(REFERENCE 15). In pixels, kept patches take the decoded frame, and skipped ones the upscaled input
itself (paper section 3). The seam between them is a ramp that lies inside the kept patches.
Invariant: every pixel of a skipped patch equals the upscaled input bit for bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH, PATCH_PIXELS
from skipsr_jax.tokens.patches import gather_kept, patchify, scatter_kept, unpatchify
from skipsr_jax.types import Bool, Float, Int


def gather_patches(
    latent: Float[Array, "b t h w c"], patch_index: Int[Array, "b n"]
) -> Float[Array, "b n i"]:
    """The kept patches of a latent in the plan's order; rows of padding (-1) are zero."""
    return gather_kept(patchify(latent), patch_index)


@jax.named_scope("compose_latent")
def compose_latent(
    latent: Float[Array, "b t h w c"],
    tokens: Float[Array, "b n i"],
    patch_index: Int[Array, "b n"],
) -> Float[Array, "b t h w c"]:
    """``latent`` with the kept patches replaced by ``tokens``; rows of padding (-1) are dropped."""
    grid = (latent.shape[1], latent.shape[2] // PATCH, latent.shape[3] // PATCH)
    return unpatchify(scatter_kept(patchify(latent), tokens, patch_index), grid)


def seam_weights(keep: Bool[Array, "f r q"], feather: int) -> Float[Array, "f h w"]:
    """The weight of the decoded pixel: 0 in skipped patches, 1 well inside kept ones.

    Within kept patches it rises linearly over 2 * ``feather`` pixels from the border of a skipped
    one. It is the kept area, shrunk by ``feather`` pixels and then averaged over a window of
    2 * ``feather`` + 1 pixels.
    """
    weight = keep.astype(jnp.float32)
    weight = jnp.repeat(jnp.repeat(weight, PATCH_PIXELS, axis=1), PATCH_PIXELS, axis=2)
    if feather == 0:
        return weight
    window = 2 * feather + 1
    for reduce, start, factor in ((jax.lax.min, 1.0, 1.0), (jax.lax.add, 0.0, 1.0 / window)):
        for axis in (1, 2):
            pads = [(0, 0)] * 3
            pads[axis] = (feather, feather)
            size = [1, 1, 1]
            size[axis] = window
            weight = jnp.pad(weight, pads, mode="edge")
            weight = jax.lax.reduce_window(weight, start, reduce, size, (1, 1, 1), "VALID") * factor
    return weight


@jax.named_scope("compose_pixels")
def compose_pixels(
    decoded: Float[Array, "f h w 3"],
    upscaled: Float[Array, "f h w 3"],
    keep: Bool[Array, "f r q"],
    feather: int,
) -> Float[Array, "f h w 3"]:
    """Decoded frames with the upscaled input in their skipped patches.

    Args:
      decoded, upscaled: in one value range.
      keep: the mask of each frame's patches. It may reach beyond the frames at the bottom and the
        right, where they were padded to whole patches.
      feather: pixels from the border of a kept patch to the middle of the ramp; 0: a hard seam.
    """
    weight = seam_weights(keep, feather)[:, : decoded.shape[1], : decoded.shape[2]]
    return upscaled + weight[..., None] * (decoded - upscaled)


def blend(
    old: Float[Array, "h w c"], new: Float[Array, "h w c"], weight: Float[Array, ""] | np.float32
) -> Float[Array, "h w c"]:
    """``old`` moved towards ``new`` by ``weight`` (0..1); where they are equal, exactly ``old``."""
    return old + weight * (new - old)
