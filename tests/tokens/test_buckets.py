"""The bucket ladder: what padding costs, and which buckets serve a range of token counts."""

import pytest

from skipsr_jax.tokens.buckets import Bucket, bucket_for, ladder, rung, usable_tokens


@pytest.mark.parametrize(
    ("fewest", "most", "steps"),
    [(64 * 32, 2**15, 32), (2**15 + 1, 2**16, 64), (2**16 + 1, 300_000, 128)],
)
def test_padding_costs_a_smaller_fraction_of_more_tokens(fewest, most, steps):
    for size in range(fewest, most, 97):
        padded = rung(size, 64)
        assert size <= padded and (padded - size) * steps <= size


def test_a_clip_has_a_bucket_close_to_its_size():
    assert bucket_for(93_600, 80) == Bucket(93_696, 80)
    assert bucket_for(67_673, 80) == Bucket(68_096, 80)
    assert len(ladder(93_600 // 5, 93_600)) == 147


@pytest.mark.parametrize("shards", [1, 3])
def test_the_ladder_has_a_rung_for_every_number_of_tokens(shards):
    rungs = ladder(40, 3000, shards)
    assert list(rungs) == sorted(set(rungs)) and rungs[-1] >= 3000
    for tokens in (40, 64, 65, 1000, 2999, 3000):
        assert usable_tokens(bucket_for(tokens, 1, shards).tokens, shards) in rungs
    assert ladder(5, 6) == (64,)


@pytest.mark.parametrize("shards", [1, 2, 5, 8])
def test_every_shard_has_as_many_tokens(shards):
    for tokens in (1, 63, 65, 2048, 2049, 70_001):
        bucket = bucket_for(tokens, 3, shards)
        assert bucket.tokens % shards == 0 and bucket.windows == 16
        assert tokens <= usable_tokens(bucket.tokens, shards) <= bucket.tokens
        without = bucket_for(tokens, 3, shards, slack=False)
        assert tokens <= without.tokens <= bucket.tokens


def test_no_kept_token_is_refused():
    with pytest.raises(ValueError, match="at least one kept token, got 0"):
        bucket_for(0, 1)
