"""Which patches need no refinement: Eq. 1 of the paper, and masks over the token grid.

A patch P is skippable if MSE(P, U(D(P))) <= tau, with D area downsampling by 4 and U bilinear
upsampling (paper section 3). A patch is what one token covers: 16 x 16 pixels of 4 frames, but
for the first patch in time, which covers 1 frame (``skipsr_jax.geometry``).

Resampling is in ``skipsr_jax.media.resize``; these functions take its result.
"""

import numpy as np

from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.types import Bool, Float, HostArray

TAU = 2e-4
"""Threshold of Eq. 1 on pixel values in [0, 1] (paper section 3)."""


def frame_mse(
    frames: Float[HostArray, "f h w 3"], rebuilt: Float[HostArray, "f h w 3"], patch: int
) -> Float[HostArray, "f r q"]:
    """Mean squared difference per frame and ``patch`` x ``patch`` pixels, which divide h and w."""
    count, height, width, _ = frames.shape
    error = np.square(frames.astype(np.float32) - rebuilt.astype(np.float32))
    error = error.reshape(count, height // patch, patch, width // patch, patch * 3)
    return error.mean(axis=(2, 4))


def patch_mse(
    frames: Float[HostArray, "f h w 3"],
    rebuilt: Float[HostArray, "f h w 3"],
    patch: int = PATCH_PIXELS,
) -> Float[HostArray, "t r q"]:
    """Mean squared difference per patch of ``patch`` x ``patch`` pixels (Eq. 1, left side).

    Args:
      frames: pixels in [0, 1]; f = 4k + 1, h and w multiples of ``patch``.
      rebuilt: U(D(frames)), or any other version to compare with.
      patch: side of a patch in these pixels: 16 at full resolution, 4 in a 4x smaller picture.

    Raises:
      ValueError: the size does not divide into patches.
    """
    count, height, width, _ = frames.shape
    if (count - 1) % PATCH_FRAMES or height % patch or width % patch:
        raise ValueError(
            f"{count} frames of {height}x{width} do not divide into patches of {PATCH_FRAMES} "
            f"frames (after the first) and {patch}x{patch} pixels; pad to 4k+1 frames and "
            f"multiples of {patch}"
        )
    error = frame_mse(frames, rebuilt, patch)
    later = error[1:].reshape(-1, PATCH_FRAMES, *error.shape[1:]).mean(axis=1)
    return np.concatenate([error[:1], later])


def cover(cells: int, side: int, pixels: int, target: int) -> Float[HostArray, "cells pixels"]:
    """The mean over what each cell covers, along one axis, as a matrix whose rows sum to one.

    ``pixels`` input pixels span ``target`` output pixels; cell i covers output pixels i * side to
    (i + 1) * side, as far as they exist. A cell beyond them is the last one that has any.
    """
    edges = np.minimum(np.arange(cells + 1) * side, target) * (pixels / target)
    inside = np.minimum(np.arange(cells), -(-target // side) - 1)
    low, high = edges[inside, None], edges[inside + 1, None]
    at = np.arange(pixels)
    overlap = np.clip(np.minimum(at + 1, high) - np.maximum(at, low), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def needs_refinement(mse: Float[HostArray, "t r q"], tau: float = TAU) -> Bool[HostArray, "t r q"]:
    """The keep mask: True where Eq. 1 does not hold."""
    return mse > tau


def dilate(keep: Bool[HostArray, "t r q"], patches: int) -> Bool[HostArray, "t r q"]:
    """The keep mask grown by ``patches`` in height and width (square neighbourhood)."""
    for axis in (1, 2):
        grown = keep.copy()
        for shift in range(1, patches + 1):
            later = [slice(None)] * 3
            earlier = [slice(None)] * 3
            later[axis], earlier[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(later)] |= keep[tuple(earlier)]
            grown[tuple(earlier)] |= keep[tuple(later)]
        keep = grown
    return keep
