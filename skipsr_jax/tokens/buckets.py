"""Buckets: the few sizes that compiled programs have.

A sequence of kept tokens is padded up to a rung of the bucket ladder, so that a handful of compiled
programs serves every video. Padding is computed like any token: it costs at most 1/32 of the
tokens, and where they are many, and a step of 1/32 would be long, at most 1/64 (from 2^15 tokens
on) or 1/128 (from 2^16 on). The price is programs: a clip of 93,600 tokens of which a fifth or more
is kept may ask for any of 147, where steps of 1/32 throughout would make 74. The capacity for
windows is a rung of the same ladder: windows are few, and what they add to the attention rows is
the text copied into each.
"""

import dataclasses

STEPS, LARGE_STEPS = 32, 128
"""Steps between consecutive powers of two: of small sizes, and of the largest."""
LONG_STEP = 512
"""What is not exceeded before steps are 1/LARGE_STEPS of the size."""
SLACK, MAX_SLACK = 200, 6
"""1/SLACK of the capacity is left free for each shard beyond the second, up to MAX_SLACK times."""
TOKEN_FLOOR = 64
WINDOW_FLOOR = 16


def rung(size: int, floor: int) -> int:
    """The smallest rung of the ladder >= ``size``.

    Between consecutive powers of two there are STEPS steps. From where those are LONG_STEP long on,
    the step stays, until there are LARGE_STEPS of them. ``floor`` is the lowest rung and the finest
    step (a power of two).
    """
    if size <= floor:
        return floor
    octave = 1 << ((size - 1).bit_length() - 1)
    step = max(octave // LARGE_STEPS, min(octave // STEPS, LONG_STEP), floor)
    return -(-size // step) * step


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """What a compiled DiT depends on, besides the model and the text length.

    Attributes:
      tokens: capacity for kept video tokens.
      windows: capacity for windows with at least one kept token, in either partition.
    """

    tokens: int
    windows: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.windows} windows"


def bucket_for(tokens: int, windows: int, shards: int = 1, slack: bool = True) -> Bucket:
    """The smallest bucket for that many kept tokens in that many windows.

    Args:
      shards: devices that share a sequence; the tokens' rung is rounded up to a multiple of it, so
        that each has as many.
      slack: whether to leave free what ``usable_tokens`` does, so that windows can be assigned
        whole to the shards.
    """
    if tokens < 1:
        raise ValueError(f"a bucket needs at least one kept token, got {tokens}")
    capacity = max(1, tokens - shards + 1)  # a rung below may reach it when rounded up
    while True:
        capacity = -(-rung(capacity, TOKEN_FLOOR) // shards) * shards
        if (usable_tokens(capacity, shards) if slack else capacity) >= tokens:
            return Bucket(capacity, rung(windows, WINDOW_FLOOR))
        capacity += 1


def usable_tokens(capacity: int, shards: int = 1) -> int:
    """How many kept tokens a bucket with capacity for ``capacity`` tokens is used for.

    To more than two shards, windows can be assigned whole only with some slack.
    """
    return capacity - capacity * min(max(shards - 2, 0), MAX_SLACK) // SLACK


def ladder(fewest: int, most: int, shards: int = 1) -> tuple[int, ...]:
    """The usable tokens of all buckets for ``fewest`` to ``most`` kept tokens, rising."""
    counts: list[int] = []
    tokens = fewest
    while tokens <= most:
        counts.append(usable_tokens(bucket_for(tokens, 1, shards).tokens, shards))
        tokens = counts[-1] + 1
    return tuple(counts)
