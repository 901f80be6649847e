"""One program serves a run until its padding has cost more than others would."""

import numpy as np
import pytest

from skipsr_jax.inference import bucket_choice
from skipsr_jax.inference.bucket_choice import BucketChoice
from skipsr_jax.tokens.plan import bucket_with_window_capacity, build_plan

GRID = (5, 10, 12)


def choice_of(parameters=1000):
    return BucketChoice(parameters, 1, "cpu")


def mask(kept, grid=GRID, seed=0):
    keep = np.zeros(np.prod(grid), bool)
    keep[np.random.default_rng(seed).permutation(keep.size)[:kept]] = True
    return keep.reshape(grid)


def choose(choice, keep, fine=False, kept=False):
    return choice.choose(keep, 1, fine, lambda bucket: kept)


def test_one_bucket_serves_all_masks_of_a_short_run():
    choice = choice_of()
    buckets = {choose(choice, mask(kept, seed=kept)) for kept in (600, 20, 300, 77, 599)}
    assert buckets == {bucket_with_window_capacity([np.ones(GRID, bool)])}


def test_reserved_sizes_share_a_bucket_that_holds_each_of_them():
    choice, other = choice_of(), (3, 24, 7)
    choice.reserve([GRID, other, (1, 2, 2)])
    got = {choose(choice, np.ones(grid, bool)) for grid in (GRID, other, (1, 2, 2))}
    assert len(got) == 1
    for grid in (GRID, other):
        build_plan([np.ones(grid, bool)], [4], *got)  # raises where it does not fit


def test_a_larger_clip_than_reserved_gets_a_larger_bucket():
    choice = choice_of()
    small = choose(choice, mask(10))
    large = choose(choice, np.ones((9, 20, 20), bool))
    assert large.tokens >= 3600 > small.tokens


def test_a_clip_with_more_windows_and_fewer_tokens_gets_a_bucket_that_holds_them():
    choice, many_windows = choice_of(), np.ones((2, 10, 200), bool)
    first = choose(choice, np.ones((12, 4, 90), bool))
    wanted = bucket_with_window_capacity([many_windows])
    assert wanted.windows > first.windows and wanted.tokens < first.tokens
    build_plan([many_windows], [4], choose(choice, many_windows))  # raises where it does not fit


def test_long_runs_come_to_the_fine_buckets(monkeypatch):
    monkeypatch.setattr(bucket_choice, "HOST_FLOPS", 1e6)  # a token takes 2 ms
    choice = choice_of()
    wanted = bucket_with_window_capacity([mask(100)])
    got = [choose(choice, mask(100, seed=seed)) for seed in range(40)]
    assert got[0] != wanted and got[-1] == wanted
    # Once it is there, masks a little smaller use it too.
    assert choose(choice, mask(98)) == wanted


def test_kept_programs_and_fine_runs_do_not_wait():
    choice = choice_of(10**9)
    wanted = bucket_with_window_capacity([mask(100)])
    assert choose(choice, mask(100), kept=True) == wanted
    assert choose(choice_of(), mask(100), fine=True) == wanted


@pytest.mark.parametrize("kept", [1, 64, 65, 600])
def test_what_is_chosen_holds_the_mask(kept):
    bucket = choose(choice_of(), mask(kept))
    assert build_plan([mask(kept)], [4], bucket).patch_index.shape == (1, bucket.tokens)
