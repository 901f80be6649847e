"""Parameters of a network whose kernels are quantised, made from those of the unquantised one.

Which kernels are, the quantised network's shapes say: ``a/quantized_kernel`` and
``a/kernel_scale`` stand for ``a/kernel`` of a dense layer, ``a/quantized_taps`` and
``a/taps_scale`` for that of a 3 x 3 x 3 convolution. All other parameters are the same in both.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from skipsr_jax.kernels.convolution import quantize_taps
from skipsr_jax.kernels.quantized import Format, Quantized, dequantize_kernel, quantize_kernel
from skipsr_jax.models.params import Params, flatten, unflatten
from skipsr_jax.types import DType, Float

_KERNEL, _VALUES, _SCALE = "/kernel", "/quantized_kernel", "/kernel_scale"
_TAPS, _TAPS_SCALE = "/quantized_taps", "/taps_scale"


def quantized_layers(params: Params) -> list[str]:
    """The paths of the dense layers whose kernels are quantised, by parameters or their shapes."""
    return [path.removesuffix(_VALUES) for path in flatten(params) if path.endswith(_VALUES)]


def quantized_convolutions(params: Params) -> list[str]:
    """The paths of the convolutions whose kernels are quantised, by parameters or their shapes."""
    return [path.removesuffix(_TAPS) for path in flatten(params) if path.endswith(_TAPS)]


def unquantized_shapes(shapes: Params) -> Params:
    """The shapes of the parameters of the unquantised network, from those of the quantised one."""

    def dense(values: Any, scale: Any) -> jax.ShapeDtypeStruct:
        *stack, o, i = values.shape
        return jax.ShapeDtypeStruct((*stack, i, o), scale.dtype)

    flat = flatten(unquantized(shapes, dense))
    for layer in quantized_convolutions(shapes):
        taps, o, depth = flat.pop(layer + _TAPS).shape
        kernel = (3, 3, 3, taps * depth // 27, o)
        flat[layer + _KERNEL] = jax.ShapeDtypeStruct(kernel, flat.pop(layer + _TAPS_SCALE).dtype)
    return unflatten(flat)


def unquantized(params: Params, make: Callable[..., Any]) -> Params:
    """``params`` with ``make(values, scale)`` as kernel of each quantised dense layer."""
    flat = flatten(params)
    for layer in quantized_layers(params):
        flat[layer + _KERNEL] = make(flat.pop(layer + _VALUES), flat.pop(layer + _SCALE))
    return unflatten(flat)


def quantize_params(
    params: Params, shapes: Params, format: Format, shardings: Params | None = None
) -> Params:
    """The parameters of the network with these ``shapes``.

    Args:
      params: of the unquantised network. Its kernels are deleted, so that no more than one stack of
        them is in memory twice. On the host, they stay.
      shapes: the quantised network's parameters, as shapes.
      shardings: of the result; default: the first local device.
    """
    flat, wanted = flatten(params), flatten(shapes)
    sharded = None if shardings is None else flatten(shardings)
    of_layers = [(layer, _VALUES, _SCALE) for layer in quantized_layers(shapes)]
    of_layers += [(layer, _TAPS, _TAPS_SCALE) for layer in quantized_convolutions(shapes)]
    for layer, *suffixes in of_layers:
        names = layer + suffixes[0], layer + suffixes[1]
        shardings_of_kernel = (
            None if sharded is None else Quantized(*(sharded[name] for name in names))
        )
        dtype = wanted[names[1]].dtype
        made = _quantize(
            flat.pop(layer + _KERNEL), format, dtype, shardings_of_kernel, suffixes[0] == _TAPS
        )
        flat |= dict(zip(names, made, strict=True))
    return unflatten(flat)


def _quantize(
    kernel: Any, format: Format, dtype: DType, shardings: Any, is_convolution: bool
) -> Quantized:
    def run(kernel: Float[Array, "*stack i o"]) -> Quantized:
        values, scale = quantize_taps(kernel) if is_convolution else quantize_kernel(kernel, format)
        return Quantized(values, scale.astype(dtype))

    made = jax.jit(run, out_shardings=shardings)(kernel)
    if isinstance(kernel, Array) and not isinstance(kernel, jax.core.Tracer):
        jax.block_until_ready(made)
        kernel.delete()
    return made


def dequantize_params(params: Params, dtype: DType) -> Params:
    """The unquantised network's parameters for which quantised ones stand, kernels in ``dtype``."""
    run = jax.jit(lambda values, scale: dequantize_kernel(Quantized(values, scale), dtype))
    return unquantized(params, run)
