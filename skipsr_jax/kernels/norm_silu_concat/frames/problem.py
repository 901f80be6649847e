"""What is joined: the facts that decide which implementation can do it."""

import dataclasses

import numpy as np

SpacePadding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros around each frame: (top, bottom), (left, right)."""

Ends = tuple[int, int]
"""Rows of zeros below each frame, and columns to its right."""


@dataclasses.dataclass(frozen=True)
class Join:
    """``clips`` of ``frames`` new frames behind ``past`` old ones, shared by ``devices``; with the
    zeros of ``ends`` around they have ``height`` x ``width`` pixels."""

    clips: int
    frames: int
    height: int
    width: int
    ends: Ends
    channels: int
    past: int
    dtype: np.dtype
    devices: int
