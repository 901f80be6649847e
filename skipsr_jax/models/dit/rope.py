"""Three-dimensional rotary positions inside windows, mask-aware (paper section 4.2, Eq. 2).

A kept token is rotated by its position in its whole window, not by its index among the kept ones.
Channels are rotated in neighbouring pairs (``kernels.qk_norm_rope``). The time axis owns the first
pairs, then height, then width; pairs beyond are left alone. Two sets of positions:

* ``window_angles`` (SeedVR2-3B, "mmrope3d"): positions count from 0 in each window, video frames
  are offset by the length of the text, and text token j sits at (j, j, j);
* ``pixel_angles`` (SeedVR-7B): positions are spread evenly over [-1, 1]; a single one is at -1.

Frequencies are numbers of the checkpoint. All angles are float32.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.types import Float, HostArray, Int

AXES = 3
"""Time, height and width."""


def language_frequencies(rope_dim: int) -> Float[HostArray, " frequencies"]:
    """10000^(-i / pairs) for the (rope_dim // 3) // 2 pairs i of one axis."""
    pairs = rope_dim // AXES // 2
    return (10000.0 ** (-np.arange(pairs) / pairs)).astype(np.float32)


def pixel_frequencies(rope_dim: int) -> Float[HostArray, " frequencies"]:
    """pi * linspace(1, 128) for the (rope_dim // 3) // 2 pairs of one axis."""
    return (math.pi * np.linspace(1.0, 128.0, rope_dim // AXES // 2)).astype(np.float32)


def window_angles(
    position: Int[Array, "b n 3"],
    text_length: Int[Array, "b n"],
    frequencies: Float[Array, " frequencies"],
) -> Float[Array, "b n pairs"]:
    """Angles of video tokens, pairs = 3 frequencies: the time axis starts behind the text."""
    offset = jnp.stack([text_length, jnp.zeros_like(text_length), jnp.zeros_like(text_length)], -1)
    return _angles((position + offset).astype(jnp.float32), frequencies)


def text_angles(slots: int, frequencies: Float[Array, " frequencies"]) -> Float[Array, "l pairs"]:
    """Angles of the text tokens of one sample: token j at (j, j, j)."""
    position = jnp.arange(slots, dtype=jnp.float32)
    return _angles(jnp.broadcast_to(position[:, None], (slots, AXES)), frequencies)


def pixel_angles(
    position: Int[Array, "b n 3"],
    extent: Int[Array, "b n 3"],
    frequencies: Float[Array, " frequencies"],
) -> Float[Array, "b n pairs"]:
    """Angles of video tokens, pairs = 3 frequencies: a window spans [-1, 1] along each axis."""
    step = 2.0 / jnp.maximum(extent - 1, 1).astype(jnp.float32)
    return _angles(-1.0 + step * position.astype(jnp.float32), frequencies)


def _angles(
    position: Float[Array, "*tokens 3"], frequencies: Float[Array, " frequencies"]
) -> Float[Array, "*tokens pairs"]:
    """Angles of the pairs of all axes, axis by axis."""
    angles = position[..., None] * frequencies.astype(jnp.float32)
    return angles.reshape(*position.shape[:-1], AXES * frequencies.shape[0])
