"""Dense layers with the initialisation of the networks that we match: U(+-1/sqrt(fan_in)).

A layer is made for products in its compute dtype (``Linear``) or for quantised ones
(``QuantizedLinear``). ``models.adapter`` gives frozen layers adapters, and may replace layers by
those whose kernels are stored in 8 bits (``StoredLinear``).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from skipsr_jax.kernels.quantized import (
    Format,
    Product,
    Quantized,
    dequantize_kernel,
    multiply,
)
from skipsr_jax.models.layers.initial import Initializer, drawn, filled, or_shape
from skipsr_jax.models.layers.lora import LoRA
from skipsr_jax.parallel.fsdp import GATHERED
from skipsr_jax.types import DType, Float

Columns = tuple[Array, ...]
"""A kernel (i, o) and, of an adapted layer, what it adds: arrays with the output channels last."""

KERNEL_INIT = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform with variance 1 / (3 fan_in), which is U(+-1/sqrt(fan_in))."""


class Linear(nnx.Linear):
    """A dense layer with products in its compute dtype, and maybe an adapter ``lora``."""

    lora: LoRA | None = None

    def columns(self) -> Columns:
        """The kernel, and the part of the adapter that has output channels."""
        return _columns(self.kernel[...].astype(self.dtype), self.lora)

    def product(self, x: Float[Array, "b n i"], columns: Columns) -> Float[Array, "b n columns"]:
        """The product with some of ``columns()``, without bias."""
        return _product(x, columns, self.lora)

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        """The layer's result, in its compute dtype."""
        if self.lora is None:
            return super().__call__(x)
        return _with_bias(self.product(x.astype(self.dtype), self.columns()), self.bias)


class StoredLinear(nnx.Module):
    """A frozen dense layer whose kernel is stored in 8 bits and multiplied in the compute dtype.

    Parameters: as of ``QuantizedLinear``. The kernel in the compute dtype is made where it is used,
    and made again in the backward pass.
    """

    lora: LoRA | None = None

    def __init__(
        self,
        quantized_kernel: nnx.Param,
        kernel_scale: nnx.Param,
        bias: nnx.Param | None,
        *,
        dtype: DType,
    ):
        self.quantized_kernel, self.kernel_scale = quantized_kernel, kernel_scale
        self.bias, self.dtype = bias, dtype

    def columns(self) -> Columns:
        """As of ``Linear``."""
        stored = Quantized(self.quantized_kernel[...], self.kernel_scale[...])
        kernel = checkpoint_name(dequantize_kernel(stored, self.dtype), GATHERED)
        return _columns(kernel, self.lora)

    def product(self, x: Float[Array, "b n i"], columns: Columns) -> Float[Array, "b n columns"]:
        """As of ``Linear``."""
        return _product(x, columns, self.lora)

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        """The layer's result, in its compute dtype."""
        return _with_bias(self.product(x.astype(self.dtype), self.columns()), self.bias)


def _columns(kernel: Float[Array, "i o"], lora: LoRA | None) -> Columns:
    return (kernel,) if lora is None else (kernel, lora.columns())


def _product(x: Array, columns: Columns, lora: LoRA | None) -> Array:
    result = x @ columns[0]
    return result if lora is None else result + lora.reduced(x) @ columns[1]


def _with_bias(x: Array, bias: nnx.Param | None) -> Array:
    return x if bias is None else x + bias[...].astype(x.dtype)


class QuantizedLinear(nnx.Module):
    """A dense layer for inference whose kernel is stored, and multiplied, in 8 bits.

    Its input is quantised by whoever computes it. Parameters: ``quantized_kernel`` (o, i) and
    ``kernel_scale`` (o,), which a trained kernel gives (``models.quantized_params``; they begin as
    0 and 1), and maybe ``bias`` (o,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        format: Format,
        dtype: DType,
        param_dtype: DType,
        bias_init: Initializer | None,
    ):
        shape = (out_features, in_features)
        self.quantized_kernel = filled(0.0, rngs, shape, format.dtype)
        self.kernel_scale = filled(1.0, rngs, shape[:1], param_dtype)
        self.bias = None if bias_init is None else drawn(bias_init, rngs, shape[:1], param_dtype)
        self.dtype = dtype

    def kernel(self) -> Quantized:
        """The kernel."""
        return Quantized(self.quantized_kernel[...], self.kernel_scale[...])

    def product(self, x: Quantized) -> Product:
        """The product alone, without bias and before its scales."""
        return multiply(x, self.kernel(), self.dtype)

    def __call__(self, x: Quantized) -> Float[Array, "b n o"]:
        """The layer's result, in float32."""
        result = self.product(x).scaled()
        return result if self.bias is None else result + self.bias[...].astype(jnp.float32)


def linear(
    in_features: int,
    out_features: int,
    *,
    rngs: nnx.Rngs,
    dtype: DType,
    param_dtype: DType,
    use_bias: bool = True,
    format: Format | None = None,
) -> Linear | QuantizedLinear:
    """A dense layer with this initialisation.

    ``dtype``: of the computation. ``param_dtype``: of the stored parameters. ``format``: of
    quantised products; None: products are in ``dtype``.
    """

    def bias_init(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
        return jax.random.uniform(key, shape, dtype, -(in_features**-0.5), in_features**-0.5)

    if format is not None:
        return QuantizedLinear(
            in_features,
            out_features,
            rngs=rngs,
            format=format,
            dtype=dtype,
            param_dtype=param_dtype,
            bias_init=bias_init if use_bias else None,
        )
    return Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=or_shape(KERNEL_INIT),
        bias_init=or_shape(bias_init),
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
