"""The two feed-forward layers: gated (SwiGLU, SeedVR2-3B) and plain (GELU, SeedVR-7B)."""

import jax
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.linear import linear
from skipsr_jax.types import DType, Float

HIDDEN_MULTIPLE = 256


def gated_hidden(width: int, expand_ratio: int) -> int:
    """Two thirds of the expanded width, rounded up to a multiple of 256."""
    hidden = int(2 * width * expand_ratio / 3)
    return HIDDEN_MULTIPLE * -(-hidden // HIDDEN_MULTIPLE)


class GatedMLP(nnx.Module):
    """W_out(silu(W_gate x) * W_in x), without biases."""

    def __init__(
        self,
        width: int,
        expand_ratio: int,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ):
        hidden = gated_hidden(width, expand_ratio)

        def layer(in_features: int, out_features: int) -> nnx.Linear:
            return linear(
                in_features,
                out_features,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                use_bias=False,
            )

        self.proj_in_gate = layer(width, hidden)
        self.proj_in = layer(width, hidden)
        self.proj_out = layer(hidden, width)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.proj_out(jax.nn.silu(self.proj_in_gate(x)) * self.proj_in(x))


class MLP(nnx.Module):
    """W_out(gelu_tanh(W_in x)), with biases."""

    def __init__(
        self,
        width: int,
        expand_ratio: int,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ):
        hidden = width * expand_ratio
        self.proj_in = linear(width, hidden, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.proj_out = linear(hidden, width, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.proj_out(jax.nn.gelu(self.proj_in(x), approximate=True))
