"""Root-mean-square normalisation, computed in float32 whatever the input."""

import jax
import jax.numpy as jnp
from flax import nnx

from skipsr_jax.types import Array, DType, Float


def rms_normalize(x: Float[Array, "*rows d"], eps: float) -> Float[Array, "*rows d"]:
    """x / sqrt(mean(x^2) + eps) over the last axis; the result is float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


class RMSNorm(nnx.Module):
    """``rms_normalize`` times a learned weight per channel; the result is float32."""

    def __init__(self, width: int, eps: float, *, param_dtype: DType = jnp.float32):
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        return rms_normalize(x, self.eps) * self.scale[...].astype(jnp.float32)
