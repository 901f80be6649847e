"""Between latents and tokens: one token is a patch of 1 x 2 x 2 latent pixels.

A token's vector lists its pixels row by row with all channels of a pixel together
(index = (row * 2 + column) * channels + channel); tokens run over time, then height, then width.
"""

from einops import rearrange

from skipsr_jax.types import Array, Float

PATCH = 2
"""Latent pixels along the height and width of a patch; along time it is one."""


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
