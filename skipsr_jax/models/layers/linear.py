"""Dense layers with the initialisation of the networks that we match: U(+-1/sqrt(fan_in)).

Quantised products (fp8, int8) would be chosen here: all dense layers of the transformer come from
``linear``.
"""

import jax
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.initial import or_shape
from skipsr_jax.types import DType

KERNEL_INIT = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform with variance 1 / (3 fan_in), which is U(+-1/sqrt(fan_in))."""


def linear(
    in_features: int,
    out_features: int,
    *,
    rngs: nnx.Rngs,
    dtype: DType,
    param_dtype: DType,
    use_bias: bool = True,
) -> nnx.Linear:
    """A dense layer with this initialisation.

    ``dtype``: of the computation. ``param_dtype``: of the stored parameters.
    """

    def bias_init(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
        return jax.random.uniform(key, shape, dtype, -(in_features**-0.5), in_features**-0.5)

    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=or_shape(KERNEL_INIT),
        bias_init=or_shape(bias_init),
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
