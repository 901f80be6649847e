"""Superblocks of a mask: which are active, in which slots, and how many slots there are."""

import numpy as np
import pytest

from skipsr_jax.tokens.superblocks import active_superblocks, plan_superblocks, superblocks_of


def test_a_superblock_with_one_kept_patch_is_active():
    keep = np.zeros((2, 5, 9), bool)
    keep[1, 4, 3] = True
    active = active_superblocks(keep)
    assert active.shape == (2, 2, 3)
    assert np.argwhere(active).tolist() == [[1, 1, 0]]


def test_slots_hold_the_active_ones_and_padding():
    active = np.zeros((1, 2, 3), bool)
    active[0, 0, 2] = active[0, 1, 1] = True
    found = superblocks_of(active, 3)
    assert found.index.tolist() == [2, 4, 6]
    assert found.slot_of.tolist() == [[[3, 3, 0], [3, 1, 3]]]
    with pytest.raises(ValueError, match="2 superblocks of 6 are active; 1 slots"):
        superblocks_of(active, 1)


def test_slices_have_the_same_slots_or_run_densely():
    keep = np.zeros((6, 4, 40), bool)
    keep[1, 0, 0] = keep[3, 0, ::4] = True  # 1 and 10 superblocks
    first, one, other, last = plan_superblocks(keep, [1, 2, 2, 1])
    assert first is None and last is None
    assert len(one.index) == len(other.index) == 10
    assert (one.index < 20).sum() == 1
    wider = plan_superblocks(keep, [1, 2, 2, 1], slots=16)
    assert [len(part.index) for part in wider[1:3]] == [16, 16]
    assert plan_superblocks(keep[:1], [1]) == (None,)
