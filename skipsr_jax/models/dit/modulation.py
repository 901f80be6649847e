"""Time embedding and adaptive modulation ("AdaSingle" of SeedVR): one embedding for all blocks.

The embedding has 6 numbers per channel: (shift, scale, gate) for attention and for the MLP; every
branch of every block adds its own learned vectors to them. There is no "1 +": the learned scale
starts around 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.linear import Linear, linear
from skipsr_jax.types import DType, Float, Int

FREQUENCIES = 128
"""Sines, and as many cosines, of the timestep."""

MOST_SELECTED = 16
"""Up to so many samples in a pack, tokens get their sample's modulation by selections, which the
compiler makes part of the operations that use it. A gather would write (b, n, d) float32 numbers
for each of shift, scale and gate, and its gradient would be a scatter."""

ATTENTION, FEED_FORWARD = 0, 1
"""The two sub-layers of a block, as indices into the time embedding."""


class Modulation(NamedTuple):
    """Shift, scale and gate of one sub-layer, per token (or broadcast over tokens), float32."""

    shift: Float[Array, "b #n d"]
    scale: Float[Array, "b #n d"]
    gate: Float[Array, "b #n d"]


class TimeEmbedding(nnx.Module):
    """timestep in 0..1000 -> 6 numbers per channel."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType):
        def layer(in_features: int, out_features: int) -> Linear:
            return linear(
                in_features, out_features, rngs=rngs, dtype=dtype, param_dtype=param_dtype
            )

        self.proj_in = layer(2 * FREQUENCIES, width)
        self.proj_hid = layer(width, width)
        self.proj_out = layer(width, 6 * width)

    def __call__(self, timestep: Float[Array, "b k"]) -> Float[Array, "b k e"]:
        """e = 6d, channel outermost: index = channel * 6 + sublayer * 3 + (shift, scale, gate)."""
        frequencies = np.exp(-math.log(10000.0) * np.arange(FREQUENCIES) / FREQUENCIES)
        angles = timestep.astype(jnp.float32)[..., None] * frequencies.astype(np.float32)
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = jax.nn.silu(self.proj_in(x))
        x = jax.nn.silu(self.proj_hid(x))
        return self.proj_out(x).astype(jnp.float32)


def per_token(
    embedding: Float[Array, "b k e"], sample: Int[Array, "b n"], sublayer: int
) -> Modulation:
    """The modulation of one sub-layer, for tokens that belong to ``sample``."""
    b, samples, width = embedding.shape
    m = embedding.reshape(b, samples, width // 6, 2, 3)[:, :, :, sublayer]
    return Modulation(*(_of_tokens(m[..., i], sample) for i in range(3)))


def _of_tokens(values: Float[Array, "b k d"], sample: Int[Array, "b n"]) -> Float[Array, "b #n d"]:
    """The values of each token's sample; (b, 1, d) where there is one sample."""
    samples = values.shape[1]
    if samples > MOST_SELECTED:
        return jnp.take_along_axis(values, sample[:, :, None], axis=1)
    result = values[:, :1]
    for i in range(1, samples):
        result = jnp.where(sample[:, :, None] == i, values[:, i : i + 1], result)
    return result


def modulate(
    x: Float[Array, "b n d"], m: Modulation, shift: nnx.Param, scale: nnx.Param
) -> Float[Array, "b n d"]:
    """x * (m.scale + scale) + m.shift + shift, in float32."""
    scales, shifts = scale_and_shift(m, shift, scale)
    return x.astype(jnp.float32) * scales + shifts


def scale_and_shift(
    m: Modulation, shift: nnx.Param, scale: nnx.Param
) -> tuple[Float[Array, "b #n d"], Float[Array, "b #n d"]]:
    """m.scale + scale and m.shift + shift, in float32."""
    return m.scale + scale[...].astype(jnp.float32), m.shift + shift[...].astype(jnp.float32)
