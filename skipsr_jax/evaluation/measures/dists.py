"""DISTS (Ding et al. 2020) of a frame: structure and texture similarity of VGG16's features.

The features are the pixels themselves and five of VGG16, whose pools are L2 pools with a Hanning
window. Each channel gives a term of means (texture) and a term of covariance (structure); both are
weighted, with weights that sum to one. Frames are not resized, which is pyiqa's default.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.evaluation.measures import backbones, weights
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.types import Float

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet's pixels in [0, 1]."""
_C1 = _C2 = 1e-6
CHANNELS = (3, *backbones.channels(backbones.VGG16))
SMALLEST = 16  # pixels a side: one pixel in the last feature


def _l2_pool(x: Float[Array, "1 h w c"]) -> Float[Array, "1 _ _ c"]:
    """Root of the mean square in 3 x 3 windows with weights of a Hanning window, stride 2."""
    line = np.hanning(5)[1:-1]
    window = np.outer(line, line) / line.sum() ** 2
    count = x.shape[-1]
    kernel = np.broadcast_to(window.astype(np.float32)[..., None, None], (3, 3, 1, count))
    return jnp.sqrt(backbones.convolve(x**2, kernel, 2, 1, groups=count) + 1e-12)


@jax.jit
def _distance(
    params: backbones.Params,
    texture: list[Float[Array, "_"]],
    structure: list[Float[Array, "_"]],
    x: Float[Array, "1 h w 3"],
    y: Float[Array, "1 h w 3"],
) -> Float[Array, ""]:
    found = []
    for z in (x, y):
        inputs = (z - _MEAN) / _DEVIATION
        deep = backbones.features(backbones.VGG16, backbones.VGG16_POOLS, _l2_pool, params, inputs)
        found.append([z, *deep])
    similarity = 0.0
    for alpha, beta, a, b in zip(texture, structure, *found, strict=True):
        mean_a, mean_b = a.mean((0, 1, 2)), b.mean((0, 1, 2))
        centred_a, centred_b = a - mean_a, b - mean_b
        variances = jnp.mean(centred_a**2 + centred_b**2, (0, 1, 2))
        covariance = jnp.mean(centred_a * centred_b, (0, 1, 2))
        means = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
        shapes = (2 * covariance + _C2) / (variances + _C2)
        similarity += jnp.sum(alpha * means) + jnp.sum(beta * shapes)
    return 1 - similarity


def make(read: weights.Reader) -> Callable[[Picture, Picture], float]:
    """Returns DISTS of a frame against the truth's; 0 is equal, lower is better.

    Raises UserError when a file is missing, or not of the network.
    """
    params = backbones.read_params(backbones.VGG16, read(weights.VGG16), weights.VGG16.names[0])
    tensors = read(weights.DISTS)
    shape = (1, sum(CHANNELS), 1, 1)
    alpha, beta = (
        weights.tensor_named(tensors, name, shape, weights.DISTS.names[0]).reshape(-1)
        for name in ("alpha", "beta")
    )
    total = alpha.sum() + beta.sum()
    ends = np.cumsum(CHANNELS)[:-1]
    texture, structure = (
        [jnp.asarray(part) for part in np.split(values / total, ends)] for values in (alpha, beta)
    )

    def dists(result: Picture, truth: Picture) -> float:
        if min(result.size) < SMALLEST:
            raise Undefined(f"DISTS needs {SMALLEST} pixels a side")
        x, y = (picture.rgb[None].astype(np.float32) for picture in (result, truth))
        return float(_distance(params, texture, structure, x, y))

    return dists
