"""Parameters of a network whose kernels are quantised, made from those of the unquantised one.

Which kernels are, the quantised network's shapes say: ``a/quantized_kernel`` and
``a/kernel_scale`` stand for ``a/kernel``. All other parameters are the same in both.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from skipsr_jax.kernels.quantized import Format, Quantized, dequantize_kernel, quantize_kernel
from skipsr_jax.models.params import Params, flatten, unflatten
from skipsr_jax.types import DType, Float

_KERNEL, _VALUES, _SCALE = "/kernel", "/quantized_kernel", "/kernel_scale"


def quantized_layers(params: Params) -> list[str]:
    """The paths of the layers whose kernels are quantised, by parameters or their shapes."""
    return [path.removesuffix(_VALUES) for path in flatten(params) if path.endswith(_VALUES)]


def unquantized(params: Params, make: Callable[..., Any]) -> Params:
    """``params`` with the entry ``make(values, scale)`` as kernel of each quantised layer."""
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
    for layer in quantized_layers(shapes):
        names = layer + _VALUES, layer + _SCALE
        shardings_of_kernel = (
            None if sharded is None else Quantized(*(sharded[name] for name in names))
        )
        dtype = wanted[names[1]].dtype
        made = _quantize(flat.pop(layer + _KERNEL), format, dtype, shardings_of_kernel)
        flat |= dict(zip(names, made, strict=True))
    return unflatten(flat)


def _quantize(kernel: Any, format: Format, dtype: DType, shardings: Any) -> Quantized:
    def run(kernel: Float[Array, "*stack i o"]) -> Quantized:
        values, scale = quantize_kernel(kernel, format)
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
