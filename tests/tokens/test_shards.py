"""Whole windows are assigned to shards within their capacity, and always the same way."""

import itertools

import numpy as np
import pytest

from skipsr_jax.tokens.buckets import bucket_for, ladder, usable_tokens
from skipsr_jax.tokens.plan import bucket_with_window_capacity, build_plan
from skipsr_jax.tokens.shards import assign_windows
from skipsr_jax.tokens.windows import REGULAR


@pytest.mark.parametrize("shards", [2, 3, 4, 5, 8])
def test_windows_of_many_sizes_fill_every_shard(shards):
    rng = np.random.default_rng(shards)
    counts = rng.binomial(2600, rng.uniform(0.2, 0.9, 36))
    capacity = bucket_for(int(counts.sum()), 36, shards).tokens // shards
    owners = assign_windows(counts, shards, capacity)
    loads = np.bincount(owners, counts, shards)
    assert loads.max() <= capacity and loads.min() > 0.9 * capacity
    np.testing.assert_array_equal(owners, assign_windows(counts, shards, capacity))


def test_the_windows_of_a_dense_clip_fall_into_two_and_into_four():
    keep = np.ones((26, 45, 80), bool)
    for shards in (2, 4):
        bucket = bucket_with_window_capacity([keep], shards)
        plan = build_plan([keep], [3], bucket, shards=shards)
        assert plan.shard_layouts is not None
        assert (bucket.tokens - keep.size) / keep.size < 0.0125


@pytest.mark.parametrize(
    ("counts", "shards", "capacity"),
    [([5, 5, 5], 2, 8), ([9, 1], 2, 5), ([4], 2, 4), ([4, 4, 4], 2, 5)],
)
def test_no_assignment_where_windows_do_not_fit(counts, shards, capacity):
    assert assign_windows(np.array(counts), shards, capacity) is None


@pytest.mark.parametrize("shards", [1, 2, 4, 20])
def test_a_bucket_is_used_up_to_its_usable_tokens(shards):
    for tokens in (1, 63, 64, 1000, 93_600):
        capacity = bucket_for(tokens, 1, shards).tokens
        assert capacity % shards == 0 and usable_tokens(capacity, shards) >= tokens
        assert bucket_for(usable_tokens(capacity, shards), 1, shards).tokens == capacity
    counts = ladder(20_000, 24_000, shards)
    assert [bucket_for(count, 1, shards).tokens for count in counts] == sorted(
        {bucket_for(count, 1, shards).tokens for count in range(20_000, 24_001)}
    )


@pytest.mark.parametrize("shards", [2, 3])
def test_shard_layouts_hold_the_whole_windows_of_their_tokens(shards):
    """Each is a layout of the tokens of its shard; together they hold each window once."""
    rng = np.random.default_rng(0)
    keep = [rng.random(grid) < 0.6 for grid in ((3, 10, 14), (2, 9, 9))]
    text, slots = [3, 2], 4
    bucket = bucket_with_window_capacity(keep, shards)
    plan = build_plan(keep, text, bucket, slots, shards)
    whole, capacity = plan.layout, bucket.tokens // shards
    gathered = []
    for shard in range(shards):
        cu, gather = plan.shard_layouts.cu_seqlens[0, shard], plan.shard_layouts.gather[0, shard]
        for begin, end in itertools.pairwise(cu):
            if begin < end:
                rows = gather[begin:end]
                video = rows[rows < capacity] + shard * capacity
                texts = rows[rows >= capacity] - capacity
                assert plan.valid[0, video].all()
                gathered.append((*video, *(bucket.tokens + texts)))
        rows = plan.shard_layouts.video_rows[0, shard]
        real = plan.valid[0, shard * capacity : (shard + 1) * capacity]
        np.testing.assert_array_equal(gather[rows[real]], np.flatnonzero(real))
        assert (rows[~real] == len(gather)).all()
    cu, gather = whole.cu_seqlens[0, REGULAR], whole.gather[0, REGULAR]
    wanted = [tuple(gather[a:b]) for a, b in itertools.pairwise(cu) if a < b]
    assert sorted(gathered) == sorted(wanted)
    np.testing.assert_allclose(plan.shard_layouts.text_weight.sum(axis=(1, 3)), [[1, 1]], rtol=1e-5)
