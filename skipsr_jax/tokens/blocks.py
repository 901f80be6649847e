"""Which blocks of a picture a sparse convolution runs, as index arrays for each latent frame.

A block is what one token covers: 16 x 16 pixels at full resolution, 8 x 8 at half. Active blocks
are stored one after the other in slots; the arrays here say where each lies and who its neighbours
are. They are data: one compiled program per number of slots serves every mask. Everything runs on
the host.

The first latent frame of a clip runs every block: it fills what is remembered of those that are
left out later (``nn.block_sparse``), and is one frame where later ones are four.
"""

from typing import NamedTuple

import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.types import Bool, HostArray, Int

HALF = PATCH_PIXELS // 2
"""Pixels along a block at half resolution."""
MISSING = -1
"""In place of a slot: this block is not active, or lies beyond the border of the picture."""

RUNGS = 8
"""Numbers of slots that programs are compiled for, in each octave."""


class Blocks(NamedTuple):
    """The active blocks of one latent frame. Slots beyond them are padding.

    Attributes:
      place: the block of each slot, counted row by row, none twice; numbers from that of all blocks
        on mark padding.
      neighbours: slots of the 3 x 3 blocks around each, row by row; or MISSING.
    """

    place: Int[Array | HostArray, " n"]
    neighbours: Int[Array | HostArray, "n 9"]


def slots_for(count: int, blocks: int) -> int:
    """The room for ``count`` of ``blocks`` blocks: less than an eighth more than needed."""
    octave = (max(count, 1) - 1).bit_length()
    step = max(1, (1 << octave) // (2 * RUNGS))
    return min(max(1, -(-count // step) * step), blocks)


def _neighbours(slots: Int[HostArray, "r q"], place: Int[HostArray, " n"]) -> HostArray:
    """The slots around each place, from the picture of slots."""
    around = np.pad(slots, 1, constant_values=MISSING)
    row, column = np.divmod(place, slots.shape[1])
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return np.stack([around[row + i, column + j] for i, j in shifts], axis=1)


def _blocks(active: Bool[HostArray, "r q"], slots: int) -> Blocks:
    """The active blocks of one frame."""
    place = np.flatnonzero(active).astype(np.int32)
    slot_of = np.full(active.size, MISSING, np.int32)
    slot_of[place] = np.arange(len(place), dtype=np.int32)
    padding = slots - len(place)
    around = _neighbours(slot_of.reshape(active.shape), place)
    return Blocks(
        np.concatenate([place, active.size + np.arange(padding, dtype=np.int32)]),
        np.pad(around, ((0, padding), (0, 0)), constant_values=MISSING),
    )


def plan_blocks(active: Bool[HostArray, "t r q"], slots: int | None = None) -> list[Blocks]:
    """The blocks of each latent frame of a clip: all of them in the first, then the active ones.

    ``slots``: for the latter; by default what the fullest frame needs. Raises ValueError when a
    frame has more active blocks than slots.
    """
    blocks = active[0].size
    most = int(active[1:].sum(axis=(1, 2)).max(initial=0))
    slots = slots_for(most, blocks) if slots is None else slots
    if most > slots:
        raise ValueError(f"a frame has {most} active blocks of {blocks}; there are {slots} slots")
    everything = _blocks(np.ones_like(active[0]), blocks)
    return [everything, *(_blocks(frame, slots) for frame in active[1:])]


def clip_blocks(keep: Bool[HostArray, "t r q"]) -> list[Blocks] | None:
    """The blocks of a clip's kept patches. None where nothing can be left out: of a picture, and
    where everything is kept."""
    return None if len(keep) == 1 or keep[1:].all() else plan_blocks(keep)


def share_run(plan: list[Blocks]) -> float:
    """Which share of all blocks later latent frames run, padding included, 0 to 1."""
    return len(plan[-1].place) / len(plan[0].place)


def slot_numbers(fewest: int, most: int, blocks: int) -> tuple[int, ...]:
    """The numbers of slots that ``fewest`` to ``most`` active of ``blocks`` blocks take, rising."""
    numbers: list[int] = []
    while fewest <= most:
        numbers.append(slots_for(fewest, blocks))
        fewest = numbers[-1] + 1
    return tuple(numbers)


def blocks_run(plan: list[Blocks]) -> int:
    """How many blocks of latent frames run, padding included."""
    return sum(len(blocks.place) for blocks in plan)
