"""Damage of files: what disks, networks and careless tools do to bytes."""

import random
from collections.abc import Callable

_HEAD = 512
"""Bytes at both ends in which half of the small damage lies: headers and indexes say the most."""


def _position(data: bytes, rng: random.Random) -> int:
    if rng.random() < 0.5:
        return rng.randrange(len(data))
    at = rng.randrange(min(_HEAD, len(data)))
    return at if rng.random() < 0.7 else len(data) - 1 - at


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to four flipped bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[_position(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to eight neighbouring bytes of an extreme or a random value."""
    changed, at = bytearray(data), _position(data, rng)
    value = rng.choice([0, 0xFF, 0x7F, 0x80, rng.randrange(256)])
    for index in range(at, min(len(data), at + rng.choice([1, 2, 4, 8]))):
        changed[index] = value
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The beginning of the file."""
    return data[: rng.randrange(1, len(data))]


def clear_block(data: bytes, rng: random.Random) -> bytes:
    """A block of zeros, as a disk leaves one that was never written."""
    size, at = rng.choice([16, 64, 512, 4096]), rng.randrange(len(data))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def lose_block(data: bytes, rng: random.Random) -> bytes:
    """Without a part in the middle."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 512) :] or b"\0"


def repeat_block(data: bytes, rng: random.Random) -> bytes:
    """A part twice."""
    at = rng.randrange(len(data))
    return data[:at] + data[at : at + rng.randint(1, 512)] + data[at:]


def mix(data: bytes, rng: random.Random) -> bytes:
    """Random bytes in place of a part."""
    at = rng.randrange(len(data))
    size = len(data[at : at + rng.randint(1, 64)])
    return data[:at] + rng.randbytes(size) + data[at + size :]


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits, flip_bits, set_bytes, set_bytes, cut, clear_block, lose_block, repeat_block, mix,
)  # fmt: skip


def mutated(data: bytes, seed: str) -> tuple[str, bytes]:
    """The name of a kind of damage, and the data with it; the same for the same ``seed``."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    return kind.__name__, kind(data, rng)
