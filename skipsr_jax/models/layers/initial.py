"""The first numbers of parameters, or their shapes alone.

Every parameter of the networks is made here. With ``nnx.Rngs`` it is drawn or filled; with
``ShapesOnly`` it is a ``jax.ShapeDtypeStruct``, which takes no device, no memory and no tracing:
``nnx.eval_shape`` traces each initialiser, a second or two for a network of a few hundred arrays.
Invariant: both make modules of the same structure.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.types import DType, HostArray

Initializer = jax.nn.initializers.Initializer


class Buffer(nnx.Variable):
    """A variable that belongs to the checkpoint but is not trained (rotary frequencies)."""


class ShapesOnly(nnx.Rngs):
    """Stands for random keys where a module is made of shapes instead of arrays."""

    def params(self) -> None:
        """The key of a parameter of which nothing is drawn."""


def drawn(
    init: Initializer, rngs: nnx.Rngs, shape: tuple[int, ...], param_dtype: DType
) -> nnx.Param:
    """A parameter that ``init`` draws with the next key."""
    return nnx.Param(or_shape(init)(rngs.params(), shape, param_dtype))


def filled(value: float, rngs: nnx.Rngs, shape: tuple[int, ...], param_dtype: DType) -> nnx.Param:
    """A parameter of equal numbers; takes no key."""
    if isinstance(rngs, ShapesOnly):
        return nnx.Param(jax.ShapeDtypeStruct(shape, param_dtype))
    return nnx.Param(jnp.full(shape, value, param_dtype))


def buffer(value: HostArray, rngs: nnx.Rngs) -> Buffer:
    """A buffer that holds ``value``."""
    if isinstance(rngs, ShapesOnly):
        return Buffer(jax.ShapeDtypeStruct(value.shape, value.dtype))
    return Buffer(jnp.asarray(value))


def around(mean: float) -> Initializer:
    """Normal numbers around ``mean``, with the standard deviation 1 / sqrt(last axis)."""

    def init(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
        return mean + jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5

    return init


def or_shape(init: Initializer) -> Initializer:
    """``init``, which gives the shape alone where the key is None (see ``ShapesOnly``)."""

    def made(
        key: Array | None, shape: tuple[int, ...], dtype: DType
    ) -> Array | jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype) if key is None else init(key, shape, dtype)

    return made


def stacked_shapes(module: nnx.Module, count: int) -> nnx.Module:
    """A module of shapes, each behind a leading axis of ``count``, as ``nnx.vmap`` stacks them."""
    graphdef, state = nnx.split(module)
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)
    return nnx.merge(graphdef, stacked)
