"""Between latents and tokens: one token is a patch of 1 x 2 x 2 latent pixels.

A token's vector lists its pixels row by row with all channels of a pixel together
(index = (row * 2 + column) * channels + channel); tokens run over time, then height, then width.
Which patches are kept comes as a plan's ``patch_index``, -1 where a row of the bucket is padding.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.geometry import PATCH
from skipsr_jax.types import Float, Int


def patchify(latent: Float[Array, "b t h w c"]) -> Float[Array, "b n i"]:
    """The latent cut into tokens: n = t * h/2 * w/2, i = 4c. Raises ValueError on odd sizes."""
    _, _, height, width, _ = latent.shape
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"latent size {height}x{width} does not divide into patches of {PATCH}x{PATCH}; "
            f"pad the frames to multiples of 16 pixels"
        )
    return rearrange(latent, "b t (h p) (w q) c -> b (t h w) (p q c)", p=PATCH, q=PATCH)


def unpatchify(
    tokens: Float[Array, "b n i"], grid: tuple[int, int, int]
) -> Float[Array, "b t h w c"]:
    """The inverse of ``patchify`` for a token grid (t, h/2, w/2)."""
    frames, height, width = grid
    return rearrange(
        tokens,
        "b (t h w) (p q c) -> b t (h p) (w q) c",
        t=frames, h=height, w=width, p=PATCH, q=PATCH,
    )  # fmt: skip


def _past_padding(patches: Float[Array, "b p i"], index: Int[Array, "b n"]) -> Int[Array, "b n"]:
    return jnp.where(index < 0, patches.shape[1], index)


def gather_kept(patches: Float[Array, "b p i"], index: Int[Array, "b n"]) -> Float[Array, "b n i"]:
    """The patches at ``index``; rows of padding are zero."""
    take = jax.vmap(lambda rows, i: rows.at[i].get(mode="fill", fill_value=0))
    return take(patches, _past_padding(patches, index))


def scatter_kept(
    patches: Float[Array, "b p i"], tokens: Float[Array, "b n i"], index: Int[Array, "b n"]
) -> Float[Array, "b p i"]:
    """``patches`` with those at ``index`` replaced by ``tokens``; rows of padding go nowhere."""
    put = jax.vmap(lambda rows, i, new: rows.at[i].set(new.astype(rows.dtype), mode="drop"))
    return put(patches, _past_padding(patches, index), tokens)


def join_channels(
    noisy: Float[Array, "b n x"], conditions: Float[Array, "b n y"]
) -> Float[Array, "b n i"]:
    """Tokens of two latents -> tokens of the latent with the channels of both, i = x + y."""
    b, n, _ = noisy.shape
    parts = [part.reshape(b, n, PATCH * PATCH, -1) for part in (noisy, conditions)]
    return jnp.concatenate(parts, axis=-1).reshape(b, n, -1)
