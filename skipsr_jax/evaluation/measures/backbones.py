"""The convolutional networks whose features LPIPS and DISTS compare: AlexNet and VGG16, in JAX.

Layers have the numbers of torchvision's ``features``, so that its files are read as they are.
Arrays are (1, h, w, c), weights (height, width, in, out). Products run in full float32 on
accelerators too, because scores are compared across machines.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from skipsr_jax.evaluation.measures.weights import tensor_named
from skipsr_jax.types import Float, HostArray

Params = dict[str, tuple[Array, Array]]
Pool = Callable[[Array], Array]

# (number in torchvision's features, channels in, channels out, kernel, stride, padding) of each
# convolution, stage by stage; a stage ends where a feature is taken. A pool is between stages.
Layers = tuple[tuple[tuple[int, int, int, int, int, int], ...], ...]
ALEXNET: Layers = (
    ((0, 3, 64, 11, 4, 2),),
    ((3, 64, 192, 5, 1, 2),),
    ((6, 192, 384, 3, 1, 1),),
    ((8, 384, 256, 3, 1, 1),),
    ((10, 256, 256, 3, 1, 1),),
)
ALEXNET_POOLS = (1, 2)
"""Stages of AlexNet that begin with a pool of 3 x 3 and stride 2."""
VGG16: Layers = (
    ((0, 3, 64, 3, 1, 1), (2, 64, 64, 3, 1, 1)),
    ((5, 64, 128, 3, 1, 1), (7, 128, 128, 3, 1, 1)),
    ((10, 128, 256, 3, 1, 1), (12, 256, 256, 3, 1, 1), (14, 256, 256, 3, 1, 1)),
    ((17, 256, 512, 3, 1, 1), (19, 512, 512, 3, 1, 1), (21, 512, 512, 3, 1, 1)),
    ((24, 512, 512, 3, 1, 1), (26, 512, 512, 3, 1, 1), (28, 512, 512, 3, 1, 1)),
)
VGG16_POOLS = (1, 2, 3, 4)
"""Stages of VGG16 that begin with a pool."""


def channels(layers: Layers) -> tuple[int, ...]:
    """Channels of the feature of each stage."""
    return tuple(stage[-1][2] for stage in layers)


def read_params(layers: Layers, tensors: dict[str, HostArray], source: str) -> Params:
    """Weights and biases of a network from a torchvision file's tensors. Raises UserError."""
    params = {}
    for number, inputs, outputs, kernel, _, _ in (layer for stage in layers for layer in stage):
        name = f"features.{number}"
        weight = tensor_named(tensors, f"{name}.weight", (outputs, inputs, kernel, kernel), source)
        bias = tensor_named(tensors, f"{name}.bias", (outputs,), source)
        params[name] = jnp.asarray(weight.transpose(2, 3, 1, 0)), jnp.asarray(bias)
    return params


def features(
    layers: Layers,
    pools: tuple[int, ...],
    pool: Pool,
    params: Params,
    x: Float[Array, "1 h w c"],
) -> list[Float[Array, "1 _ _ _"]]:
    """The feature after the last rectifier of each stage."""
    found = []
    for index, stage in enumerate(layers):
        if index in pools:
            x = pool(x)
        for number, _, _, _, stride, padding in stage:
            weight, bias = params[f"features.{number}"]
            x = jax.nn.relu(convolve(x, weight, stride, padding) + bias)
        found.append(x)
    return found


def convolve(
    x: Float[Array, "1 h w c"],
    weight: Array | HostArray,
    stride: int,
    padding: int,
    groups: int = 1,
) -> Float[Array, "1 _ _ _"]:
    """A 2D convolution with zeros around, as torch's."""
    return lax.conv_general_dilated(
        x, weight, (stride, stride), ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def max_pool(size: int) -> Pool:
    """The maximum over ``size`` x ``size`` windows with stride 2; windows lie inside."""

    def pool(x: Array) -> Array:
        window = (1, size, size, 1)
        return lax.reduce_window(x, -np.inf, lax.max, window, (1, 2, 2, 1), "VALID")

    return pool
