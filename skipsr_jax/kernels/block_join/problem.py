"""What is joined: the facts that decide which implementation can do it, and the affine map."""

import dataclasses
from typing import NamedTuple

import numpy as np

from skipsr_jax.types import Array, Float


class Affine(NamedTuple):
    """(x - mean) * gain + bias of each channel in each frame, in float32."""

    mean: Float[Array, "f c"]
    gain: Float[Array, "f c"]
    bias: Float[Array, "f c"]


@dataclasses.dataclass(frozen=True)
class Join:
    """Slots of blocks, ``size`` x ``size`` pixels, ``frames`` new ones behind ``past`` old ones."""

    slots: int
    frames: int
    size: int
    channels: int
    past: int
    dtype: np.dtype
