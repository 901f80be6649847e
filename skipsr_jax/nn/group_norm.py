"""Group normalisation of each frame on its own.

y = (x - mean) / sqrt(var + eps) * scale + bias, with mean and variance over the pixels of one frame
and the channels of one group, in float32. Invariant: no frame's output depends on another frame.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from skipsr_jax.types import Array, Float


def _group_mean(x: Float[Array, "b f h w c"], groups: int) -> Float[Array, "b f 1 1 c"]:
    """The mean over each frame's pixels and each group's channels, once per channel.

    Pixels are reduced first, so that only the small (b, f, c) array is ever regrouped.
    """
    channels = jnp.mean(x, axis=(2, 3))
    grouped = channels.reshape(*channels.shape[:2], groups, -1).mean(axis=-1)
    return jnp.repeat(grouped, x.shape[-1] // groups, axis=-1)[:, :, None, None, :]


def group_norm(
    x: Float[Array, "b f h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    eps: float = 1e-6,
) -> Float[Array, "b f h w c"]:
    """Normalised frames in float32."""
    x = x.astype(jnp.float32)
    mean = _group_mean(x, groups)
    variance = _group_mean(jnp.square(x - mean), groups)
    gain = scale.astype(jnp.float32) / jnp.sqrt(variance + eps)
    return (x - mean) * gain + bias.astype(jnp.float32)


class GroupNorm(nnx.Module):
    """``group_norm`` with learned ``scale`` and ``bias``."""

    def __init__(self, channels: int, groups: int, *, param_dtype: Any = jnp.float32):
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not fall into {groups} equal groups: choose norm_groups "
                "that divides every block's channels"
            )
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))
        self.groups = groups

    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        return group_norm(x, self.scale[...], self.bias[...], self.groups)
