"""What is joined: the facts that decide which implementation can do it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Join:
    """Slots of blocks, ``size`` x ``size`` pixels, ``frames`` new ones behind ``past`` old ones."""

    slots: int
    frames: int
    size: int
    channels: int
    past: int
    dtype: np.dtype
