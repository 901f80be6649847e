"""LPIPS v0.1 (Zhang et al. 2018) of a frame: the weighted distance of normalised features.

At each pixel of each feature the vectors of result and truth are scaled to unit length; their
squared difference is weighted per channel, summed over channels, averaged over pixels, and added up
over the features. The network is AlexNet or VGG16.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.evaluation.measures import backbones, weights
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.types import Float

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
"""Mean and deviation of ImageNet's pixels in [-1, 1], rounded as the reference has them."""
_EPSILON = 1e-10  # beside the length of a feature vector
SMALLEST = 32  # pixels a side: AlexNet's last feature would have none


def _distance(
    layers: backbones.Layers, pools: tuple[int, ...], pool: backbones.Pool
) -> Callable[[backbones.Params, list[Array], Array, Array], Array]:
    """The distance of two frames (1, h, w, 3) in [0, 1], compiled once for each size."""

    def unit(feature: Float[Array, "1 h w c"]) -> Float[Array, "1 h w c"]:
        return feature / (jnp.sqrt(jnp.sum(feature**2, -1, keepdims=True)) + _EPSILON)

    def distance(
        params: backbones.Params,
        linear: list[Float[Array, "_"]],
        x: Float[Array, "1 h w 3"],
        y: Float[Array, "1 h w 3"],
    ) -> Float[Array, ""]:
        found = [
            backbones.features(layers, pools, pool, params, (2 * z - 1 - _SHIFT) / _SCALE)
            for z in (x, y)
        ]
        parts = [
            jnp.mean(jnp.sum(weight * (unit(a) - unit(b)) ** 2, -1))
            for weight, a, b in zip(linear, *found, strict=True)
        ]
        return sum(parts)

    return jax.jit(distance)


def make(network: str, read: weights.Reader) -> Callable[[Picture, Picture], float]:
    """Returns LPIPS of a frame against the truth's; 0 is equal, lower is better.

    Args:
      network: "alex" or "vgg".
      read: of `Weights`.

    Raises:
      UserError: a file is missing, or not of the network.
    """
    if network == "alex":
        layers, pools, pool = backbones.ALEXNET, backbones.ALEXNET_POOLS, backbones.max_pool(3)
        files = weights.ALEXNET, weights.LPIPS_ALEX
    else:
        layers, pools, pool = backbones.VGG16, backbones.VGG16_POOLS, backbones.max_pool(2)
        files = weights.VGG16, weights.LPIPS_VGG
    params = backbones.read_params(layers, read(files[0]), files[0].names[0])
    tensors = read(files[1])
    linear = [
        jnp.asarray(
            weights.tensor_named(
                tensors, f"lin{index}.model.1.weight", (1, count, 1, 1), files[1].names[0]
            ).reshape(-1)
        )
        for index, count in enumerate(backbones.channels(layers))
    ]
    distance = _distance(layers, pools, pool)

    def lpips(result: Picture, truth: Picture) -> float:
        if min(result.size) < SMALLEST:
            raise Undefined(f"LPIPS needs {SMALLEST} pixels a side")
        x, y = (picture.rgb[None].astype(np.float32) for picture in (result, truth))
        return float(distance(params, linear, x, y))

    return lpips
