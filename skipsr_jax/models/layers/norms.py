"""Root-mean-square normalisation, computed in float32 whatever the input."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.initial import filled
from skipsr_jax.types import DType, Float


def rms_factor(x: Float[Array, "*rows d"], eps: float) -> Float[Array, "*rows 1"]:
    """1 / sqrt(mean(x^2) + eps) over the last axis, in float32."""
    x = x.astype(jnp.float32)
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def rms_normalize(x: Float[Array, "*rows d"], eps: float) -> Float[Array, "*rows d"]:
    """x / sqrt(mean(x^2) + eps) over the last axis; the result is float32."""
    return x.astype(jnp.float32) * rms_factor(x, eps)


class RMSNorm(nnx.Module):
    """``rms_normalize`` times a learned weight per channel; the result is float32.

    ``unfused`` makes the factors of the rows a pass of their own. What follows then reads x, and
    not its normalised form, which the compiler would write in float32: for rows that are rotated,
    gathered or sent to other devices after it.
    """

    def __init__(
        self,
        width: int,
        eps: float,
        *,
        rngs: nnx.Rngs,
        param_dtype: DType = jnp.float32,
        unfused: bool = False,
    ):
        self.scale = filled(1.0, rngs, (width,), param_dtype)
        self.eps, self.unfused = eps, unfused

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        factor = rms_factor(x, self.eps)
        if self.unfused:
            factor = jax.lax.optimization_barrier(factor)
        return x.astype(jnp.float32) * factor * self.scale[...].astype(jnp.float32)
