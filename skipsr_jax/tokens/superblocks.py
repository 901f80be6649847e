"""Which superblocks of a slice of latent frames a sparse decoder runs, as index arrays.

A superblock is 4 x 4 patches, 64 x 64 pixels, of one latent frame. A network without norms and
attention runs active ones on their own, each with a halo, so large blocks spare more of the halo
and small ones more of what no mask keeps. Active superblocks are stored in slots; they are data:
one compiled program per number of slots serves every mask. Everything runs on the host.
"""

from typing import Any, NamedTuple

import numpy as np

from skipsr_jax.tokens.blocks import slots_for
from skipsr_jax.types import Bool, HostArray, Int

SUPERBLOCK = 4
"""Patches along a superblock."""


class Superblocks(NamedTuple):
    """The active superblocks of a slice. Slots beyond them are padding.

    Attributes:
      index: the superblock in each slot, counted over (latent frame, row, column), none twice; the
        number of all superblocks marks padding.
      slot_of: the slot of each superblock; the number of slots where it is not active.
    """

    index: Int[Any, " slots"]
    slot_of: Int[Any, "t rows columns"]


def active_superblocks(keep: Bool[HostArray, "t r q"]) -> Bool[HostArray, "t rows columns"]:
    """The superblocks that hold a kept patch."""
    t, r, q = keep.shape
    rows, columns = -(-r // SUPERBLOCK), -(-q // SUPERBLOCK)
    whole = np.zeros((t, rows * SUPERBLOCK, columns * SUPERBLOCK), bool)
    whole[:, :r, :q] = keep
    return whole.reshape(t, rows, SUPERBLOCK, columns, SUPERBLOCK).any(axis=(2, 4))


def superblocks_of(active: Bool[HostArray, "t rows columns"], slots: int) -> Superblocks:
    """The active superblocks of one slice. Raises ValueError when they are more than the slots."""
    index = np.flatnonzero(active).astype(np.int32)
    if len(index) > slots:
        raise ValueError(f"{len(index)} superblocks of {active.size} are active; {slots} slots")
    slot_of = np.full(active.size, slots, np.int32)
    slot_of[index] = np.arange(len(index), dtype=np.int32)
    padding = np.full(slots - len(index), active.size, np.int32)
    return Superblocks(np.concatenate([index, padding]), slot_of.reshape(active.shape))


def plan_superblocks(
    keep: Bool[HostArray, "t r q"], lengths: list[int], slots: int | None = None
) -> tuple[Superblocks | None, ...]:
    """The superblocks of each slice of a clip, all in as many slots.

    None for the first slice, and for slices of fewer latent frames than the second: they run
    densely, so that one program serves all others.

    Args:
      keep: the clip's mask.
      lengths: latent frames of each slice, 1 of the first.
      slots: by default what the fullest of the slices needs.
    """
    if len(lengths) == 1:
        return (None,)
    ends = np.cumsum(lengths)
    parts = [active_superblocks(keep[end - t : end]) for t, end in zip(lengths, ends, strict=True)]
    whole = parts[1].shape
    sparse = [i > 0 and part.shape == whole for i, part in enumerate(parts)]
    most = max(int(part.sum()) for part, runs in zip(parts, sparse, strict=True) if runs)
    slots = slots_for(most, parts[1].size) if slots is None else slots
    return tuple(
        superblocks_of(part, slots) if runs else None
        for part, runs in zip(parts, sparse, strict=True)
    )
