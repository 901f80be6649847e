"""Buckets: the few sizes that compiled programs have.

A sequence of kept tokens is padded up to a rung of a ladder whose steps are at most 1/32 of the
size, so padding costs at most 1/32 of the tokens and a handful of compiled programs serves every
video. The room for windows is a rung of the same ladder: windows are few, and their share of the
attention rows is the text copied into each.
"""

import dataclasses


def rung(size: int, floor: int) -> int:
    """The smallest rung >= ``size``: 32 steps between consecutive powers of two, from ``floor`` on.

    ``floor`` is the lowest rung and the finest step (a power of two).
    """
    if size <= floor:
        return floor
    step = max(floor, 1 << max(0, (size - 1).bit_length() - 6))
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


def ladder(fewest: int, most: int, shards: int = 1) -> tuple[int, ...]:
    """Room for tokens in the buckets that hold ``fewest`` to ``most`` kept tokens, rising."""
    rungs: list[int] = []
    tokens = fewest
    while tokens <= most:
        rungs.append(bucket_for(tokens, 1, shards).tokens)
        tokens = rungs[-1] + 1
    return tuple(rungs)


TOKEN_FLOOR = 64
WINDOW_FLOOR = 16


def bucket_for(tokens: int, windows: int, shards: int = 1) -> Bucket:
    """The smallest bucket that holds that many kept tokens in that many windows.

    ``shards``: devices that share a sequence; the tokens' rung is rounded up to a multiple of it,
    so that each has as many.
    """
    if tokens < 1:
        raise ValueError(f"a bucket needs at least one kept token, got {tokens}")
    room = -(-rung(tokens, TOKEN_FLOOR) // shards) * shards
    return Bucket(room, rung(windows, WINDOW_FLOOR))
