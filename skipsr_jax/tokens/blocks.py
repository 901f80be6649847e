"""Which blocks of a frame a sparse convolution runs, as index arrays for each latent frame.

A block is what one token covers: 16 x 16 pixels at full resolution, 8 x 8 at half. Active blocks
are stored one after the other in slots; the arrays here say which block each slot holds and in
which slots its neighbours are. They are data: one compiled program per number of slots serves every
mask. Everything runs on the host.

In the first latent frame of a clip every block is active: it fills the causal-conv cache of those
that are left out later (``models.vae.sparse_layers``), and is one frame where later ones are four.
"""

from typing import Any, NamedTuple

import numpy as np

from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.types import Bool, HostArray, Int

HALF = PATCH_PIXELS // 2
"""Pixels along a block at half resolution."""
MISSING = -1
"""Instead of a slot: the block is not active, or is beyond the border of the frame."""

RUNGS = 8
"""Numbers of slots that programs are compiled for, in each octave."""


class Blocks(NamedTuple):
    """The active blocks of one latent frame. Slots beyond them are padding.

    Attributes:
      block_index: the block in each slot, counted row by row, none twice; indices from the number
        of all blocks on mark padding.
      neighbours: slots of the 3 x 3 blocks around each, row by row; or MISSING.
    """

    block_index: Int[Any, " slots"]
    neighbours: Int[Any, "slots 9"]


def slots_for(count: int, blocks: int) -> int:
    """The slots for ``count`` of ``blocks`` blocks: less than an eighth more than needed."""
    octave = (max(count, 1) - 1).bit_length()
    step = max(1, (1 << octave) // (2 * RUNGS))
    return min(max(1, -(-count // step) * step), blocks)


def _neighbours(
    slot_of: Int[HostArray, "r q"], block_index: Int[HostArray, " slots"]
) -> Int[HostArray, "slots 9"]:
    """The slots of the blocks around each, from the slot of every block of the frame."""
    around = np.pad(slot_of, 1, constant_values=MISSING)
    row, column = np.divmod(block_index, slot_of.shape[1])
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return np.stack([around[row + i, column + j] for i, j in shifts], axis=1)


def _blocks(active: Bool[HostArray, "r q"], slots: int) -> Blocks:
    """The active blocks of one frame."""
    block_index = np.flatnonzero(active).astype(np.int32)
    slot_of = np.full(active.size, MISSING, np.int32)
    slot_of[block_index] = np.arange(len(block_index), dtype=np.int32)
    padding = slots - len(block_index)
    around = _neighbours(slot_of.reshape(active.shape), block_index)
    return Blocks(
        np.concatenate([block_index, active.size + np.arange(padding, dtype=np.int32)]),
        np.pad(around, ((0, padding), (0, 0)), constant_values=MISSING),
    )


def plan_blocks(active: Bool[HostArray, "t r q"], slots: int | None = None) -> list[Blocks]:
    """The blocks of each latent frame of a clip: all of them in the first, then the active ones.

    ``slots``: of the later frames; by default what the fullest of them needs. Raises ValueError
    when a frame has more active blocks than slots.
    """
    blocks = active[0].size
    most = int(active[1:].sum(axis=(1, 2)).max(initial=0))
    slots = slots_for(most, blocks) if slots is None else slots
    if most > slots:
        raise ValueError(f"a frame has {most} active blocks of {blocks}; there are {slots} slots")
    everything = _blocks(np.ones_like(active[0]), blocks)
    return [everything, *(_blocks(frame, slots) for frame in active[1:])]


def clip_blocks(keep: Bool[HostArray, "t r q"]) -> list[Blocks] | None:
    """The blocks of a clip's kept patches. None where nothing can be left out: for an image, and
    where everything is kept."""
    return None if len(keep) == 1 or keep[1:].all() else plan_blocks(keep)


def slot_numbers(fewest: int, most: int, blocks: int) -> tuple[int, ...]:
    """The numbers of slots that ``fewest`` to ``most`` active of ``blocks`` blocks take, rising."""
    numbers: list[int] = []
    while fewest <= most:
        numbers.append(slots_for(fewest, blocks))
        fewest = numbers[-1] + 1
    return tuple(numbers)


def blocks_run(plan: list[Blocks]) -> int:
    """How many blocks of latent frames run, padding included."""
    return sum(len(blocks.block_index) for blocks in plan)
