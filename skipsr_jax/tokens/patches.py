"""Conversion between latents and tokens: one token is a patch of 1 x 2 x 2 latent pixels.

A token's vector lists its pixels row by row with all channels of a pixel together
(index = (row * 2 + column) * channels + channel); tokens run over time, then height, then width.
A plan's ``patch_index`` says which patches are kept; it is -1 where a row of the bucket is padding.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.geometry import PATCH, PATCH_AREA, PATCH_PIXELS
from skipsr_jax.types import Float, Int


def patchify(latent: Float[Array, "b t h w c"]) -> Float[Array, "b n i"]:
    """The latent cut into tokens: n = t * h/2 * w/2, i = 4c. Raises ValueError on odd sizes."""
    _, _, height, width, _ = latent.shape
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"latent size {height}x{width} does not divide into patches of {PATCH}x{PATCH}; "
            f"pad the frames to multiples of {PATCH_PIXELS} pixels"
        )
    pattern = "b t (h down) (w right) c -> b (t h w) (down right c)"
    return rearrange(latent, pattern, down=PATCH, right=PATCH)


def unpatchify(
    tokens: Float[Array, "b n i"], grid: tuple[int, int, int]
) -> Float[Array, "b t h w c"]:
    """The inverse of ``patchify`` for a token grid (t, h/2, w/2)."""
    frames, height, width = grid
    return rearrange(
        tokens,
        "b (t h w) (down right c) -> b t (h down) (w right) c",
        t=frames, h=height, w=width, down=PATCH, right=PATCH,
    )  # fmt: skip


def _out_of_bounds_padding(
    patches: Float[Array, "b patches i"], index: Int[Array, "b n"]
) -> Int[Array, "b n"]:
    """``index`` with padding past the last patch, since -1 would mean the last one."""
    return jnp.where(index < 0, patches.shape[1], index)


def gather_kept(
    patches: Float[Array, "b patches i"], index: Int[Array, "b n"]
) -> Float[Array, "b n i"]:
    """The patches at ``index``; rows of padding are zero."""
    take = jax.vmap(lambda rows, i: rows.at[i].get(mode="fill", fill_value=0))
    return take(patches, _out_of_bounds_padding(patches, index))


def scatter_kept(
    patches: Float[Array, "b patches i"], tokens: Float[Array, "b n i"], index: Int[Array, "b n"]
) -> Float[Array, "b patches i"]:
    """``patches`` with those at ``index`` replaced by ``tokens``; rows of padding are dropped."""
    put = jax.vmap(lambda rows, i, new: rows.at[i].set(new.astype(rows.dtype), mode="drop"))
    return put(patches, _out_of_bounds_padding(patches, index), tokens)


def join_channels(
    noisy: Float[Array, "b n noisy_i"], conditions: Float[Array, "b n condition_i"]
) -> Float[Array, "b n i"]:
    """Tokens of two latents -> tokens of the latent that has the channels of both."""
    b, n, _ = noisy.shape
    pixels = [tokens.reshape(b, n, PATCH_AREA, -1) for tokens in (noisy, conditions)]
    return jnp.concatenate(pixels, axis=-1).reshape(b, n, -1)
