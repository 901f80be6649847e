"""The two feed-forward layers: gated (SwiGLU, SeedVR2-3B) and plain (GELU, SeedVR-7B).

With ``format`` their products are quantised: they take quantised rows and return float32.
"""

import jax
from flax import nnx
from jax import Array

from skipsr_jax.kernels.quantized import Format, Quantized, quantize_gated, quantize_gelu
from skipsr_jax.models.layers.linear import Linear, QuantizedLinear, linear
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
        format: Format | None = None,
    ):
        hidden = gated_hidden(width, expand_ratio)

        def layer(in_features: int, out_features: int) -> Linear | QuantizedLinear:
            return linear(
                in_features,
                out_features,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                use_bias=False,
                format=format,
            )

        self.proj_in_gate = layer(width, hidden)
        self.proj_in = layer(width, hidden)
        self.proj_out = layer(hidden, width)
        self.format = format

    def __call__(self, x: Float[Array, "b n d"] | Quantized) -> Float[Array, "b n d"]:
        if self.format is not None:
            gate, hidden = self.proj_in_gate.product(x), self.proj_in.product(x)
            return self.proj_out(quantize_gated(gate, hidden, self.format))
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
        format: Format | None = None,
    ):
        def layer(in_features: int, out_features: int) -> Linear | QuantizedLinear:
            return linear(
                in_features,
                out_features,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                format=format,
            )

        self.proj_in = layer(width, width * expand_ratio)
        self.proj_out = layer(width * expand_ratio, width)
        self.format = format

    def __call__(self, x: Float[Array, "b n d"] | Quantized) -> Float[Array, "b n d"]:
        if self.format is not None:
            bias = self.proj_in.bias[...]
            return self.proj_out(quantize_gelu(self.proj_in.product(x), bias, self.format))
        return self.proj_out(jax.nn.gelu(self.proj_in(x), approximate=True))
