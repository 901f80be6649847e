"""Random windows of clips: the truth of a training sample.

A window is a stretch of a clip within one shot, cropped at native resolution; pictures make clips
by a window that moves over them. ``softened`` widens what clips are like.
"""

import dataclasses
import itertools

import numpy as np

from skipsr_jax.data.reading import read
from skipsr_jax.data.source import Source
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.resize import resize
from skipsr_jax.media.scene_cuts import find_cuts
from skipsr_jax.types import HostArray, UInt8

PAN_PIXELS = 6.0
"""Largest speed of a pan, in pixels per frame along each axis."""

SOFTEST = 1.6
"""Largest factor by which a soft sample is enlarged."""

CUT_TRIES = 4
"""Stretches drawn from a clip with cuts nobody has listed, before one is played to and fro."""


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """The shape of one kind of batch: ``batch`` samples over all hosts, sizes in pixels."""

    batch: int
    frames: int
    height: int
    width: int

    def __post_init__(self):
        if self.batch < 1 or self.frames < 1 or (self.frames - 1) % 4:
            raise ValueError(f"batch {self.batch} must be >= 1 and frames {self.frames} be 4k + 1")
        if self.height < 16 or self.width < 16 or self.height % 16 or self.width % 16:
            raise ValueError(f"crop {self.height} x {self.width} must be multiples of 16")

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (time, rows, columns)."""
        return (self.frames - 1) // 4 + 1, self.height // 16, self.width // 16


def _stretch(
    source: Source,
    shape: ClipShape,
    corner: tuple[int, int],
    rng: np.random.Generator,
    cache: str | None,
) -> UInt8[HostArray, "f h w 3"]:
    """A random stretch of the clip within one shot, cropped at ``corner`` = (top, left).

    Where the clip's cuts are not listed they are looked for in the crop. After some tries the
    longest shot of the last stretch is played forth and back.
    """
    top, left = corner
    places = source.stretches(shape.frames)
    crop: HostArray = np.empty(0)
    cuts: tuple[int, ...] = ()
    for _ in range(CUT_TRIES):
        chosen = int(rng.integers(sum(number for _, number in places)))
        starts = (first + i for first, number in places for i in range(number))
        start = next(itertools.islice(starts, chosen, None))
        where = Crop(top, left, shape.height, shape.width)
        crop = read(source, start, shape.frames, cache, where).copy()
        cuts = find_cuts(crop) if source.cuts is None else ()
        if not cuts:
            return crop
    edges = [0, *cuts, len(crop)]
    first, stop = max(itertools.pairwise(edges), key=lambda shot: shot[1] - shot[0])
    forth = np.arange(first, stop)
    period = np.concatenate([forth, forth[-2:0:-1]])
    return crop[np.resize(period, shape.frames)]


def window(
    source: Source, shape: ClipShape, rng: np.random.Generator, cache: str | None
) -> UInt8[HostArray, "f h w 3"]:
    """A random stretch of a random crop of the clip; pans if a picture has to make a clip."""
    top = int(rng.integers(source.height - shape.height + 1))
    left = int(rng.integers(source.width - shape.width + 1))
    if source.kind != "image" or shape.frames == 1:
        return _stretch(source, shape, (top, left), rng, cache)
    picture = read(source, 0, 1, cache)[0]
    time = np.arange(shape.frames) - shape.frames // 2
    speed = rng.uniform(-PAN_PIXELS, PAN_PIXELS, 2) * (rng.random() > 0.2)  # a fifth stands still
    tops = np.clip(np.rint(top + speed[0] * time), 0, source.height - shape.height).astype(int)
    lefts = np.clip(np.rint(left + speed[1] * time), 0, source.width - shape.width).astype(int)
    return np.stack(
        [
            picture[y : y + shape.height, x : x + shape.width]
            for y, x in zip(tops, lefts, strict=True)
        ]
    )


def softened(
    source: Source, shape: ClipShape, rng: np.random.Generator, cache: str | None
) -> UInt8[HostArray, "f h w 3"]:
    """A smaller window, enlarged to the shape: as soft as much footage is that was enlarged before,
    out of focus or compressed hard, whose input tells more than its truth has."""
    zoom = rng.uniform(1, SOFTEST)
    height, width = (max(16, round(side / zoom / 16) * 16) for side in (shape.height, shape.width))
    smaller = dataclasses.replace(shape, height=height, width=width)
    frames = window(source, smaller, rng, cache).astype(np.float32)
    enlarged = resize(frames, (shape.height, shape.width), "bicubic")
    return np.clip(np.rint(enlarged), 0, 255).astype(np.uint8)
