"""Windows are dealt whole: each shard within its room, and always the same way."""

import itertools

import numpy as np
import pytest

from skipsr_jax.tokens.buckets import bucket_for, capacity, ladder
from skipsr_jax.tokens.plan import build_plan, roomy_bucket
from skipsr_jax.tokens.shards import deal_windows
from skipsr_jax.tokens.windows import REGULAR


@pytest.mark.parametrize("shards", [2, 3, 4, 5, 8])
def test_windows_of_many_sizes_fill_every_shard_to_its_room(shards):
    rng = np.random.default_rng(shards)
    counts = rng.binomial(2600, rng.uniform(0.2, 0.9, 36))
    room = bucket_for(int(counts.sum()), 36, shards).tokens // shards
    owner = deal_windows(counts, shards, room)
    loads = np.bincount(owner, counts, shards)
    assert loads.max() <= room and loads.min() > 0.9 * room
    np.testing.assert_array_equal(owner, deal_windows(counts, shards, room))


def test_the_windows_of_a_dense_clip_fall_into_two_and_into_four():
    keep = np.ones((26, 45, 80), bool)
    for shards in (2, 4):
        bucket = roomy_bucket([keep], shards)
        plan = build_plan([keep], [3], bucket, shards=shards)
        assert plan.parts is not None
        assert (bucket.tokens - keep.size) / keep.size < 0.0125


@pytest.mark.parametrize(
    ("counts", "shards", "room"),
    [([5, 5, 5], 2, 8), ([9, 1], 2, 5), ([4], 2, 4), ([4, 4, 4], 2, 5)],
)
def test_none_where_windows_do_not_fit(counts, shards, room):
    assert deal_windows(np.array(counts), shards, room) is None


@pytest.mark.parametrize("shards", [1, 2, 4, 20])
def test_a_bucket_is_taken_up_to_its_capacity(shards):
    for tokens in (1, 63, 64, 1000, 93_600):
        room = bucket_for(tokens, 1, shards).tokens
        assert room % shards == 0 and capacity(room, shards) >= tokens
        assert bucket_for(capacity(room, shards), 1, shards).tokens == room
    counts = ladder(20_000, 24_000, shards)
    assert [bucket_for(count, 1, shards).tokens for count in counts] == sorted(
        {bucket_for(count, 1, shards).tokens for count in range(20_000, 24_001)}
    )


@pytest.mark.parametrize("shards", [2, 3])
def test_parts_hold_the_whole_windows_of_their_tokens(shards):
    """Every part alone is a layout of its tokens; together they hold each window once."""
    rng = np.random.default_rng(0)
    keep = [rng.random(grid) < 0.6 for grid in ((3, 10, 14), (2, 9, 9))]
    text, slots = [3, 2], 4
    bucket = roomy_bucket(keep, shards)
    plan = build_plan(keep, text, bucket, slots, shards)
    whole, room = plan.layout, bucket.tokens // shards
    gathered = []
    for d in range(shards):
        cu, gather = plan.parts.cu_seqlens[0, d], plan.parts.gather[0, d]
        for begin, end in itertools.pairwise(cu):
            if begin < end:
                rows = gather[begin:end]
                video, texts = rows[rows < room] + d * room, rows[rows >= room] - room
                assert plan.valid[0, video].all()
                gathered.append((*video, *(bucket.tokens + texts)))
        rows = plan.parts.video_rows[0, d]
        real = plan.valid[0, d * room : (d + 1) * room]
        np.testing.assert_array_equal(gather[rows[real]], np.flatnonzero(real))
        assert (rows[~real] == len(gather)).all()
    cu, gather = whole.cu_seqlens[0, REGULAR], whole.gather[0, REGULAR]
    wanted = [tuple(gather[a:b]) for a, b in itertools.pairwise(cu) if a < b]
    assert sorted(gathered) == sorted(wanted)
    np.testing.assert_allclose(plan.parts.text_weight.sum(axis=(1, 3)), [[1, 1]], rtol=1e-5)
