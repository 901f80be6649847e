"""Which blocks of a picture a sparse convolution runs, as index arrays for each latent frame.

A block is what one token covers: 16 x 16 pixels at full resolution, 8 x 8 at half. Active blocks
are stored one after the other in slots; the arrays here say where each lies, who its neighbours are
and where it was one latent frame before. They are data: one compiled program per number of slots
serves every mask. Everything runs on the host.

The first latent frame of a clip runs every block: it gives the statistics of those that are left
out later (``nn.block_sparse``), and is one frame where later ones are four.
"""

from typing import NamedTuple

import numpy as np

from skipsr_jax.types import Array, Bool, HostArray, Int

MISSING = -1
"""In place of a slot: this block lies in the picture and is not active."""
OUTSIDE = -2
"""In place of a slot: beyond the border of the picture."""

RUNGS = 16
"""Numbers of slots that programs are compiled for: so many equal steps up to the whole picture."""


class Blocks(NamedTuple):
    """The active blocks of one latent frame. Slots beyond them are padding.

    Attributes:
      place: the block of each slot, counted row by row; the number of all blocks marks padding.
      neighbours: slots of the 3 x 3 blocks around each, row by row; MISSING or OUTSIDE without.
      before: its slot one latent frame before; MISSING when it was not active then.
    """

    place: Int[Array | HostArray, " n"]
    neighbours: Int[Array | HostArray, "n 9"]
    before: Int[Array | HostArray, " n"]


def slots_for(count: int, blocks: int) -> int:
    """The room for ``count`` of ``blocks`` blocks: at most 1/16 of the picture is padding."""
    step = -(-blocks // RUNGS)
    return min(max(1, -(-count // step)) * step, blocks)


def _neighbours(slots: Int[HostArray, "r q"], place: Int[HostArray, " n"]) -> HostArray:
    """The slots around each place, from the picture of slots."""
    around = np.pad(slots, 1, constant_values=OUTSIDE)
    row, column = np.divmod(place, slots.shape[1])
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return np.stack([around[row + i, column + j] for i, j in shifts], axis=1)


def _blocks(active: Bool[HostArray, "r q"], slot_of: HostArray, slots: int) -> Blocks:
    """The active blocks of one frame; ``slot_of``: each block's slot one frame before."""
    place = np.flatnonzero(active).astype(np.int32)
    now = np.full(active.size, MISSING, np.int32)
    now[place] = np.arange(len(place), dtype=np.int32)
    padding = (0, slots - len(place))
    around = _neighbours(now.reshape(active.shape), place)
    return Blocks(
        np.pad(place, padding, constant_values=active.size),
        np.pad(around, (padding, (0, 0)), constant_values=OUTSIDE),
        np.pad(slot_of[place], padding, constant_values=MISSING),
    )


def plan_blocks(active: Bool[HostArray, "t r q"], slots: int) -> list[Blocks]:
    """The blocks of each latent frame of a clip: all of them in the first, then the active ones,
    in ``slots`` slots. Raises ValueError when a frame has more active blocks than slots."""
    blocks = active[0].size
    most = int(active[1:].sum(axis=(1, 2)).max(initial=0))
    if most > slots:
        raise ValueError(f"a frame has {most} active blocks of {blocks}; there are {slots} slots")
    plan = [_blocks(np.ones_like(active[0]), np.full(blocks, MISSING, np.int32), blocks)]
    for frame in active[1:]:
        slot_of = np.full(blocks + 1, MISSING, np.int32)
        earlier = plan[-1].place
        slot_of[earlier] = np.arange(len(earlier), dtype=np.int32)
        plan.append(_blocks(frame, slot_of[:blocks], slots))
    return plan
