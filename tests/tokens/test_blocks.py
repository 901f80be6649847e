"""Active blocks as index arrays: their indices, neighbours and slots, and the ladder of slots."""

import numpy as np
import pytest

from skipsr_jax.tokens.blocks import (
    MISSING,
    blocks_run,
    clip_blocks,
    plan_blocks,
    slot_numbers,
    slots_for,
)


def test_the_ladder_wastes_less_than_an_eighth():
    for blocks in (1, 6, 99, 3600):
        for count in range(blocks + 1):
            slots = slots_for(count, blocks)
            assert max(count, 1) <= slots <= min(blocks, max(1, count * 9 / 8))
    assert len({slots_for(count, 3600) for count in range(225, 3601)}) <= 34


def test_the_first_frame_runs_everything_in_order():
    first, second = plan_blocks(np.zeros((2, 2, 3), bool), 4)
    np.testing.assert_array_equal(first.block_index, np.arange(6))
    np.testing.assert_array_equal(second.block_index, [6, 7, 8, 9])  # padding alone


def test_neighbours_are_those_of_the_picture():
    active = np.random.default_rng(0).random((4, 5, 7)) < 0.5
    slots = int(active.sum(axis=(1, 2)).max()) + 2
    plan = plan_blocks(active, slots)
    active[0] = True
    for frame, blocks in enumerate(plan):
        count = int(active[frame].sum())
        indices = list(np.flatnonzero(active[frame]))
        assert list(blocks.block_index[:count]) == indices
        assert (blocks.block_index[count:] >= 35).all()
        assert len(set(blocks.block_index)) == len(blocks.block_index)
        assert (blocks.neighbours[count:] == MISSING).all()
        for slot, index in enumerate(indices):
            row, column = divmod(int(index), 7)
            around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            for neighbour, (r, c) in zip(blocks.neighbours[slot], around, strict=True):
                if 0 <= r < 5 and 0 <= c < 7 and active[frame, r, c]:
                    assert blocks.block_index[neighbour] == 7 * r + c
                else:
                    assert neighbour == MISSING


def test_too_few_slots_are_refused():
    with pytest.raises(ValueError, match="6 active blocks of 6; there are 4 slots"):
        plan_blocks(np.ones((2, 2, 3), bool), 4)


def test_the_blocks_of_a_mask():
    keep = np.ones((3, 4, 8), bool)
    assert clip_blocks(keep) is None and clip_blocks(~keep[:1]) is None
    keep[1, :2] = False
    keep[2, :3] = False
    plan = clip_blocks(keep)
    assert blocks_run(plan) == 32 + 16 + 16
    np.testing.assert_array_equal(plan[1].block_index, np.arange(16, 32))


def test_the_numbers_of_slots():
    numbers = slot_numbers(20, 100, 100)
    assert numbers == tuple(sorted({slots_for(n, 100) for n in range(20, 101)}))
    assert numbers[-1] == 100 and slot_numbers(5, 4, 100) == ()
