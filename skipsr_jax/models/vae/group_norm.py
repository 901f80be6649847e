"""Group normalisation of each frame on its own.

y = (x - mean) / sqrt(var + eps) * scale + bias, with mean and variance over the pixels of one frame
and the channels of one group, in float32. Invariant: no frame's output depends on another frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.norm_silu_concat import ScaleShift
from skipsr_jax.models.layers.initial import filled
from skipsr_jax.types import DType, Float


class Moments(NamedTuple):
    """Mean and variance over each frame's pixels and each group's channels, once per channel."""

    mean: Float[Array, "b f 1 1 c"]
    variance: Float[Array, "b f 1 1 c"]


class ChannelSums(NamedTuple):
    """Sums over each frame's pixels, channel by channel, in float32.

    Attributes:
      origin: the first pixel.
      first, second: mean and mean square of the differences to it, so that a large mean costs no
        precision.
    """

    origin: Float[Array, "b f c"]
    first: Float[Array, "b f c"]
    second: Float[Array, "b f c"]


def channel_sums(x: Float[Array, "b f h w c"]) -> ChannelSums:
    """The sums, in one pass over ``x``."""
    origin = jax.lax.stop_gradient(x[:, :, :1, :1].astype(jnp.float32))
    difference = x.astype(jnp.float32) - origin
    pixels = x.shape[2] * x.shape[3]
    first = difference.sum(axis=(2, 3)) / pixels
    second = jnp.square(difference).sum(axis=(2, 3)) / pixels
    return ChannelSums(origin[:, :, 0, 0], first, second)


def moments_of(sums: ChannelSums, groups: int) -> Moments:
    """The statistics of groups, from the sums of channels: only small arrays are regrouped."""

    def of_group(channels: Float[Array, "b f c"]) -> Float[Array, "b f c"]:
        grouped = channels.reshape(*channels.shape[:2], groups, -1).mean(axis=-1)
        return jnp.repeat(grouped, channels.shape[-1] // groups, axis=-1)

    channel_mean = sums.origin + sums.first
    mean = of_group(channel_mean)
    variance = of_group(sums.second - jnp.square(sums.first) + jnp.square(channel_mean - mean))
    return Moments(mean[:, :, None, None], variance[:, :, None, None])


def moments(x: Float[Array, "b f h w c"], groups: int) -> Moments:
    """The statistics of each frame, in float32, in one pass over ``x``."""
    return moments_of(channel_sums(x), groups)


def _normalising_scale(
    variance: Float[Array, "... c"], scale: Float[Array, " c"], eps: float = 1e-6
) -> Float[Array, "... c"]:
    """The factor on differences from the mean, scale / sqrt(var + eps), in float32."""
    return scale.astype(jnp.float32) * jax.lax.rsqrt(variance + eps)


def normalise(
    x: Float[Array, "b f h w c"],
    statistics: Moments,
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    eps: float = 1e-6,
) -> Float[Array, "b f h w c"]:
    """Frames normalised by ``statistics``, in float32."""
    factor = _normalising_scale(statistics.variance, scale, eps)
    return (x.astype(jnp.float32) - statistics.mean) * factor + bias.astype(jnp.float32)


def group_norm(
    x: Float[Array, "b f h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    eps: float = 1e-6,
) -> Float[Array, "b f h w c"]:
    """Normalised frames in float32."""
    return normalise(x, moments(x, groups), scale, bias, eps)


class GroupNorm(nnx.Module):
    """``group_norm`` with learned ``scale`` and ``bias``."""

    def __init__(
        self, channels: int, groups: int, *, rngs: nnx.Rngs, param_dtype: DType = jnp.float32
    ):
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not fall into {groups} equal groups: choose norm_groups "
                "that divides every block's channels"
            )
        self.scale = filled(1.0, rngs, (channels,), param_dtype)
        self.bias = filled(0.0, rngs, (channels,), param_dtype)
        self.groups = groups

    def scale_shift(self, x: Float[Array, "b f h w c"]) -> ScaleShift:
        """The norm of ``x`` as a scale and shift of each channel in each frame."""
        return self.scale_shift_from(*(part[:, :, 0, 0] for part in moments(x, self.groups)))

    def scale_shift_from(
        self, mean: Float[Array, "*b f c"], variance: Float[Array, "*b f c"]
    ) -> ScaleShift:
        """The norm by these statistics, as a scale and shift of each channel in each frame."""
        bias = jnp.broadcast_to(self.bias[...].astype(jnp.float32), mean.shape)
        return ScaleShift(mean, _normalising_scale(variance, self.scale[...]), bias)

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        return group_norm(x, self.scale[...], self.bias[...], self.groups)
