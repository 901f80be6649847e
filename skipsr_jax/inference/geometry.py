"""From the user's frames to the networks' and back: sizes, padding, value range.

The networks want heights and widths in multiples of 16 (a patch of 2 x 2 latents of 8 pixels) and
4k + 1 frames in [-1, 1]. Padding repeats the last row, column and frame, and is cut off at the end.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.inference.settings import Size
from skipsr_jax.tokens.criterion import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.types import Float, HostArray


def target_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """The (height, width) in pixels that a height x width input is brought to.

    Raises UserError when a side would leave 1 .. 16384 pixels.
    """
    if size.height and size.width:
        target = size.height, size.width
    elif size.height:
        target = size.height, round(width * size.height / height)
    elif size.width:
        target = round(height * size.width / width), size.width
    else:
        target = round(height * size.factor), round(width * size.factor)
    if not (min(target) >= 1 and max(target) <= 16384):
        raise UserError(
            f"{width}x{height} input would become {target[1]}x{target[0]}: sides must lie within "
            f"1 .. 16384 pixels; change config.size"
        )
    return target


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The next multiples of a patch's 16 pixels."""
    return -(-height // PATCH_PIXELS) * PATCH_PIXELS, -(-width // PATCH_PIXELS) * PATCH_PIXELS


def padded_count(frames: int) -> int:
    """The next 4k + 1."""
    return -(-(frames - 1) // PATCH_FRAMES) * PATCH_FRAMES + 1


def token_grid(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Tokens along (time, height, width) of so many frames of so many pixels, padding included."""
    height, width = padded_size(height, width)
    return (
        (padded_count(frames) - 1) // PATCH_FRAMES + 1,
        height // PATCH_PIXELS,
        width // PATCH_PIXELS,
    )


def pad_frames(frames: HostArray) -> HostArray:
    """Frames (f, h, w, c) repeated at the end to 4k + 1."""
    more = padded_count(len(frames)) - len(frames)
    return np.concatenate([frames, np.repeat(frames[-1:], more, axis=0)]) if more else frames


def pad_space(frames: Float[HostArray, "f h w c"]) -> Float[HostArray, "f h2 w2 c"]:
    """Frames whose last row and column are repeated to multiples of 16."""
    height, width = padded_size(*frames.shape[1:3])
    grow = ((0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0))
    return np.pad(frames, grow, mode="edge")


def spans(lengths: Iterable[int]) -> list[slice]:
    """Consecutive slices of these lengths, from 0 on."""
    ends = list(itertools.accumulate(lengths))
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]
