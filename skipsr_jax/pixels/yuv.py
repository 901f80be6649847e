"""RGB frames as the codes that a file's encoder takes, made on the device.

A 4:2:0 frame of 8 bits has an eighth of the bytes of the float32 RGB frame that it is made from, so
what is downloaded is what is written, and the host converts nothing. Values are those of
``media.colour.from_rgb``: both read ``media.yuv_format``. Chroma is sited left (H.273 type 0),
where decoders of H.264, H.265, VP9 and AV1 expect it when nothing is stated: on even columns with
weights 1/4, 1/2, 1/4, and between two rows. An odd last row or column counts twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.media.yuv_format import YuvFormat
from skipsr_jax.types import Float

Planes = tuple[Array, Array, Array]
"""Luma, blue difference and red difference, each (..., rows, columns), uint8 or uint16."""


def _codes(values: Float[Array, "*shape"], bits: int) -> Array:
    codes = jnp.clip(jnp.rint(values), 0, 2**bits - 1)
    return codes.astype(jnp.uint8 if bits == 8 else jnp.uint16)


def _half(x: Float[Array, "*b h w"], half_width: bool, half_height: bool) -> Float[Array, "*b _ _"]:
    """Half the rows, sited between two, and half the columns, sited on the even ones."""
    outer = [(0, 0)] * (x.ndim - 2)
    if half_height:
        x = jnp.pad(x, [*outer, (0, x.shape[-2] % 2), (0, 0)], mode="edge")
        x = (x[..., ::2, :] + x[..., 1::2, :]) / 2
    if half_width:
        x = jnp.pad(x, [*outer, (0, 0), (1, x.shape[-1] % 2)], mode="edge")
        x = x[..., 1::2] / 2 + (x[..., :-1:2] + x[..., 2::2]) / 4
    return x


@functools.partial(jax.jit, static_argnames="target")
def rgb_to_yuv(frames: Float[Array, "*b h w 3"], target: YuvFormat) -> Planes:
    """The planes of frames with values in [0, 1].

    Args:
      frames: RGB; values outside [0, 1] give codes outside the nominal range, cut at the limits.
      target: the matrix, range, depth and chroma layout of the codes.

    Returns:
      Luma (..., h, w) and two chroma planes (..., ceil(h / 2) or h, ceil(w / 2) or w).
    """
    red, green, blue = (frames[..., channel].astype(jnp.float32) for channel in range(3))
    weights = target.red, 1 - target.red - target.blue, target.blue

    def luma_of(red: Array, green: Array, blue: Array) -> Array:
        return red * weights[0] + green * weights[1] + blue * weights[2]

    luma = luma_of(red, green, blue)
    # Halving is linear: the half-size luma is the luma of half-size channels.
    halved = [_half(x, target.half_width, target.half_height) for x in (luma, red, blue)]
    planes = [_codes(luma * target.luma.span + target.luma.zero, target.bits)]
    for channel, weight in ((halved[2], target.blue), (halved[1], target.red)):
        difference = (channel - halved[0]) / (2 * (1 - weight))
        planes.append(_codes(difference * target.chroma.span + target.chroma.zero, target.bits))
    return planes[0], planes[1], planes[2]


@functools.partial(jax.jit, static_argnames="bits")
def rgb_codes(frames: Float[Array, "*b h w 3"], bits: int) -> Array:
    """RGB in [0, 1] as uint8 (``bits`` 8) or as uint16 (``bits`` 16) on the full scale."""
    return _codes(frames.astype(jnp.float32) * (2**bits - 1), bits)
