"""Merges an adapter (``models.adapter``) into the kernels of the transformer that it belongs to.

Invariant: a merged transformer has the arrays of the frozen one, and computes what that one and the
adapter do together, but for rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import FORMATS, Quantized, dequantize_kernel, quantize_kernel
from skipsr_jax.models.adapter import adapted_layers, layer_pair
from skipsr_jax.models.params import Params, flatten, unflatten
from skipsr_jax.types import Float


def merge_adapter(params: Params, adapter: Params, scale: float) -> Params:
    """The parameters of the transformer with the adapter merged: W + scale A B, in W's dtype.

    Kernels that are stored in 8 bits are quantised anew, and so rounded again.

    Args:
      params: of the transformer. Its adapted kernels are deleted, so that no more than one stack of
        them is in memory twice; on the host, they stay. The result is where they are.
      adapter: of the same transformer.
      scale: ``Adapter.scale``.

    Raises:
      UserError: a layer of the adapter is not in ``params``, or has another shape.
    """
    flat = dict(flatten(params))
    for layer in adapted_layers(adapter):
        pair = layer_pair(adapter, layer)
        if layer + "/kernel" in flat:
            names = (layer + "/kernel",)
            kernel = flat[names[0]]
        elif layer + "/quantized_kernel" in flat:
            names = (layer + "/quantized_kernel", layer + "/kernel_scale")
            kernel = Quantized(*(flat[name] for name in names))
        else:
            raise UserError(f"the adapter is of another transformer: this one has no {layer}")
        made = merged_kernel(kernel, *pair, scale, layer)
        flat |= zip(names, made if len(names) > 1 else (made,), strict=True)
    return unflatten(flat)


def merged_kernel(kernel: Any, lora_a: Any, lora_b: Any, scale: float, layer: str) -> Any:
    """A kernel, or a stack of kernels, or a ``Quantized`` one, with an adapter merged.

    It is where ``kernel`` is, which is deleted where it is on devices. ``layer``: for messages.

    Raises UserError where the shapes do not fit.
    """
    if isinstance(kernel, Quantized):  # output channels first
        *stack, o, i = kernel.values.shape
    else:
        *stack, i, o = kernel.shape
    rank = lora_a.shape[-1]
    if lora_a.shape != (*stack, i, rank) or lora_b.shape != (*stack, rank, o):
        raise UserError(
            f"the adapter is of another transformer: its {layer} is of {lora_a.shape[-2]} to "
            f"{lora_b.shape[-1]} features and {lora_a.shape[:-2]} layers, not {i} to {o} and "
            f"{tuple(stack)}"
        )
    on_host = isinstance(jax.tree.leaves(kernel)[0], np.ndarray)
    shardings = None if on_host else jax.tree.map(lambda x: x.sharding, kernel)
    merge = jax.jit(
        lambda kernel, a, b: _in_turn(_merge_one, kernel, a, b, scale),
        out_shardings=shardings,
        donate_argnums=() if on_host else (0,),
    )
    made = merge(kernel, jnp.asarray(lora_a), jnp.asarray(lora_b))
    if on_host:  # jax has no float64
        return jax.tree.map(lambda x, old: np.asarray(x, old.dtype), made, kernel)
    return jax.block_until_ready(made)


def _in_turn(one: Any, kernel: Any, a: Array, b: Array, scale: float) -> Any:
    """``one`` of each kernel of a stack, one after the other: only one is in float32 at a time."""
    if a.ndim == 2:
        return one(kernel, a, b, scale)
    return jax.lax.map(lambda layer: one(*layer, scale), (kernel, a, b))


def _merge_one(
    kernel: Any, a: Float[Array, "i rank"], b: Float[Array, "rank o"], scale: float
) -> Any:
    update = scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    if not isinstance(kernel, Quantized):
        return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
    format = next(x for x in FORMATS.values() if jnp.dtype(x.dtype) == kernel.values.dtype)
    values, scales = quantize_kernel(dequantize_kernel(kernel, jnp.float32) + update, format)
    return Quantized(values, scales.astype(kernel.scale.dtype))
