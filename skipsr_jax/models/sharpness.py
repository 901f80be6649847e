"""Two sets of weights in one checkpoint: a faithful model, and the changes that make it sharp.

  weights(s) = faithful + s * (sharp - faithful),   s = ``sharpness`` from 0 to 1

The sharp model is the faithful one trained further against a discriminator, so the two lie close
together, and weights between them give results between theirs (Wang et al. 2019, ESRGAN section
3.4, network interpolation). Weights are interpolated rather than outputs, because that costs
nothing when the model runs; outputs would take two runs. A change is small beside its weight, so 8
bits with a scale for each output channel hold it: both sets take one and a half times the space of
one in bfloat16.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.params import Params
from skipsr_jax.types import Float, HostArray

LARGEST = 127
"""Of a change as an integer."""
CHANGE, SCALE = "change", "scale"
"""The two entries of a checkpoint's changes; each is nested as the parameters are."""


def _scale(change: Float[HostArray, "..."]) -> Float[HostArray, "..."]:
    """The largest change of each output channel, the last axis, over LARGEST; stacked layers have
    their own. A vector has one for all of it."""
    first = 1 if change.ndim == 3 else 0
    axes = (-1,) if change.ndim == 1 else tuple(range(first, change.ndim - 1))
    return (np.abs(change).max(axis=axes, keepdims=True) / LARGEST).astype(np.float32)


def changes(faithful: Params, sharp: Params) -> Params:
    """The changes from one set of weights to another of the same shapes, for a checkpoint.

    Both are on the host. ``{"change": 8-bit integers, "scale": float32}``, each nested as the
    weights are.
    """

    def difference(a: HostArray, b: HostArray) -> HostArray:
        return np.asarray(b, np.float32) - np.asarray(a, np.float32)

    exact = jax.tree.map(difference, faithful, sharp)
    scales = jax.tree.map(_scale, exact)

    def rounded(change: HostArray, scale: HostArray) -> HostArray:
        return np.rint(change / np.where(scale > 0, scale, 1)).astype(np.int8)

    return {CHANGE: jax.tree.map(rounded, exact, scales), SCALE: scales}


def sharpened(faithful: Params, change: Params, scale: Params, sharpness: float) -> Params:
    """The weights between the faithful ones and the sharp ones, added in float32.

    Args:
      faithful: weights.
      change, scale: of the same weights, as ``changes`` returns them.
      sharpness: 0 for the faithful weights, 1 for the sharp ones.
    """

    def moved(x: Any, change: Any, scale: Any) -> Any:  # on the host or on devices
        y = x.astype(jnp.float32) + sharpness * scale * change.astype(jnp.float32)
        return y.astype(x.dtype)

    return jax.tree.map(moved, faithful, change, scale)
