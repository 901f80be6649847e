"""Random crops of clips, in time and space: the high-quality part of a training sample.

A crop is an interval of frames within one shot, at native resolution. A picture makes a clip by a
crop that moves over it (a pan). ``soft_crop`` adds clips that are softer than what is at hand.
"""

import dataclasses
import itertools

import numpy as np

from skipsr_jax.data.reading import read
from skipsr_jax.data.source import Source
from skipsr_jax.geometry import PATCH_PIXELS, is_clip_length, padded_size, token_grid
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.resize import resize
from skipsr_jax.media.scene_cuts import find_cuts
from skipsr_jax.types import HostArray, Int, UInt8

PAN_PIXELS = 6.0
"""Largest speed of a pan, in pixels per frame along each axis."""

SOFTEST = 1.6
"""Largest factor by which a soft sample is enlarged."""

SPEED_CHANGES = 0.25
"""Probability that a clip with frame steps changes its speed once."""

CUT_TRIES = 4
"""Intervals drawn from a clip whose cuts are not listed, before one is played forth and back."""


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """The shape of one kind of batch.

    Attributes:
      batch: samples over all hosts together.
      frames: frames of a sample, 4k + 1.
      height, width: of a sample in pixels, multiples of 16.

    Raises ValueError when a size is not so.
    """

    batch: int
    frames: int
    height: int
    width: int

    def __post_init__(self):
        if self.batch < 1 or not is_clip_length(self.frames):
            raise ValueError(f"batch {self.batch} must be >= 1 and frames {self.frames} be 4k + 1")
        size = self.height, self.width
        if min(size) < 1 or size != padded_size(*size):
            raise ValueError(
                f"crop {self.height} x {self.width} must be multiples of {PATCH_PIXELS}"
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (time, rows, columns)."""
        return token_grid(self.frames, self.height, self.width)


def frame_offsets(
    frames: int, longest: int, largest_step: int, rng: np.random.Generator
) -> Int[HostArray, " f"]:
    """The offsets of a clip's frames from the first one: 0, then steps of 0 to ``largest_step``.

    The step is drawn from 1 to ``largest_step``. With probability SPEED_CHANGES it changes once, to
    any from 0 (the clip stands) on. The span stays below ``longest`` frames. Nothing is drawn where
    there is no choice.
    """
    fitting = min(largest_step, (longest - 1) // max(frames - 1, 1))
    if fitting < 2:
        return np.arange(frames)
    steps = np.full(frames - 1, rng.integers(1, fitting + 1))
    if rng.random() < SPEED_CHANGES:
        steps[int(rng.integers(1, frames - 1)) :] = rng.integers(0, fitting + 1)
    return np.concatenate([[0], np.cumsum(steps)])


def _interval(
    source: Source,
    shape: ClipShape,
    corner: tuple[int, int],
    rng: np.random.Generator,
    cache: str | None,
    largest_step: int,
) -> UInt8[HostArray, "f h w 3"]:
    """A random interval of the clip within one shot, cropped at ``corner`` = (top, left).

    Where the clip's cuts are not listed they are looked for in the crop. After some tries the
    longest shot of the last interval is played forth and back.
    """
    offsets = frame_offsets(shape.frames, source.longest, largest_step, rng)
    span = int(offsets[-1]) + 1
    intervals = source.intervals(span)
    where = Crop(*corner, shape.height, shape.width)
    crop: HostArray = np.empty(0)
    cuts: tuple[int, ...] = ()
    for _ in range(CUT_TRIES):
        chosen = int(rng.integers(sum(number for _, number in intervals)))
        starts = (first + i for first, number in intervals for i in range(number))
        start = next(itertools.islice(starts, chosen, None))
        crop = read(source, start, span, cache, where).copy()
        cuts = find_cuts(crop) if source.cuts is None else ()
        if not cuts:
            return crop[offsets]
    edges = [0, *cuts, len(crop)]
    first, stop = max(itertools.pairwise(edges), key=lambda shot: shot[1] - shot[0])
    forth = np.arange(first, stop)
    period = np.concatenate([forth, forth[-2:0:-1]])
    return crop[np.resize(period, shape.frames)]


def random_crop(
    source: Source,
    shape: ClipShape,
    rng: np.random.Generator,
    cache: str | None,
    largest_step: int = 1,
) -> UInt8[HostArray, "f h w 3"]:
    """A random crop of a random interval of the clip; a pan where a picture has to make a clip.

    The clip must have ``shape.frames`` frames within a shot, or be a picture, and the size of the
    crop at least. ``cache``: as for `reading.read`. ``largest_step``: as of ``frame_offsets``;
    pans have speeds of their own.
    """
    top = int(rng.integers(source.height - shape.height + 1))
    left = int(rng.integers(source.width - shape.width + 1))
    if source.kind != "image" or shape.frames == 1:
        return _interval(source, shape, (top, left), rng, cache, largest_step)
    picture = read(source, 0, 1, cache)[0]
    time = np.arange(shape.frames) - shape.frames // 2
    speed = rng.uniform(-PAN_PIXELS, PAN_PIXELS, 2) * (rng.random() > 0.2)  # a fifth does not move
    tops = np.clip(np.rint(top + speed[0] * time), 0, source.height - shape.height).astype(int)
    lefts = np.clip(np.rint(left + speed[1] * time), 0, source.width - shape.width).astype(int)
    return np.stack(
        [
            picture[y : y + shape.height, x : x + shape.width]
            for y, x in zip(tops, lefts, strict=True)
        ]
    )


def soft_crop(
    source: Source,
    shape: ClipShape,
    rng: np.random.Generator,
    cache: str | None,
    largest_step: int = 1,
) -> UInt8[HostArray, "f h w 3"]:
    """A smaller random crop, enlarged to the shape by up to SOFTEST.

    It is as soft as much footage is that was enlarged before, out of focus or compressed hard, and
    whose input tells more than its truth has.
    """
    zoom = rng.uniform(1, SOFTEST)
    height, width = (
        max(PATCH_PIXELS, round(side / zoom / PATCH_PIXELS) * PATCH_PIXELS)
        for side in (shape.height, shape.width)
    )
    smaller = dataclasses.replace(shape, height=height, width=width)
    frames = random_crop(source, smaller, rng, cache, largest_step).astype(np.float32)
    enlarged = resize(frames, (shape.height, shape.width), "bicubic")
    return np.clip(np.rint(enlarged), 0, 255).astype(np.uint8)
