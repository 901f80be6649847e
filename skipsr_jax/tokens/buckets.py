"""Buckets: the few sizes that compiled programs have.

A sequence of kept tokens is padded up to a rung of a ladder, so that a handful of compiled programs
serves every video. Padding is computed like any token: it costs at most 1/32 of the tokens, and
where they are many, and a step of 1/32 would be long, at most 1/64 (from 2^15 tokens on) or 1/128
(from 2^16 on). The price is programs: a clip of 93,600 tokens of which a fifth or more is kept may
ask for any of 147, where steps of 1/32 throughout would make 74. The room for windows is a rung of
the same ladder: windows are few, and their share of the attention rows is the text copied into
each.
"""

import dataclasses

STEPS, LARGE_STEPS = 32, 128
"""Steps between consecutive powers of two: of small sizes, and of the largest."""
LONG_STEP = 512
"""What is not exceeded before steps are 1/LARGE_STEPS of the size."""
SPARE, MOST_SPARE = 200, 6
"""1/SPARE of the room stays free for each shard beyond the second, up to MOST_SPARE times."""


def rung(size: int, floor: int) -> int:
    """The smallest rung >= ``size``.

    Between consecutive powers of two lie STEPS steps; from where those are LONG_STEP long on, the
    step stays, until there are LARGE_STEPS of them. ``floor`` is the lowest rung and the finest
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
      tokens: room for kept video tokens.
      windows: room for windows with at least one kept token, in either layout.
    """

    tokens: int
    windows: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.windows} windows"


TOKEN_FLOOR = 64
WINDOW_FLOOR = 16


def bucket_for(tokens: int, windows: int, shards: int = 1, spare: bool = True) -> Bucket:
    """The smallest bucket that holds that many kept tokens in that many windows.

    ``shards``: devices that share a sequence; the tokens' rung is rounded up to a multiple of it,
    so that each has as many. ``spare``: with what ``capacity`` leaves free, to deal windows whole.
    """
    if tokens < 1:
        raise ValueError(f"a bucket needs at least one kept token, got {tokens}")
    room = max(1, tokens - shards + 1)  # a rung below may reach it when rounded up
    while True:
        room = -(-rung(room, TOKEN_FLOOR) // shards) * shards
        if (capacity(room, shards) if spare else room) >= tokens:
            return Bucket(room, rung(windows, WINDOW_FLOOR))
        room += 1


def capacity(room: int, shards: int = 1) -> int:
    """How many kept tokens a bucket with room for ``room`` is taken for.

    Between more than two shards windows can be dealt whole only with some room to spare.
    """
    return room - room * min(max(shards - 2, 0), MOST_SPARE) // SPARE


def ladder(fewest: int, most: int, shards: int = 1) -> tuple[int, ...]:
    """The most kept tokens that each bucket is taken for which ``fewest`` to ``most`` ask for,
    rising."""
    counts: list[int] = []
    tokens = fewest
    while tokens <= most:
        counts.append(capacity(bucket_for(tokens, 1, shards).tokens, shards))
        tokens = counts[-1] + 1
    return tuple(counts)
