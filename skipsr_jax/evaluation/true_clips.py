"""Reads true clips for evaluation: whole patches of pixels, 4k + 1 frames, 8 bits.

Evaluation makes the low-quality input itself, by area downsampling. Sides are cut to whole patches
and to multiples of the scale, from the top left.
"""

import math
import os
from collections.abc import Iterator

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.colour import to_8_bits
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.types import HostArray, UInt8


def read_truth(path: os.PathLike, limit: int, scale: int = 4) -> UInt8[HostArray, "f h w 3"]:
    """The first 4k + 1 frames of a file, at most ``limit``, cropped to whole patches.

    Raises UserError when the file cannot be read, or is smaller than a patch.
    """
    return next(chunks(open_media(path), (limit - 1) // PATCH_FRAMES * PATCH_FRAMES + 1, scale))


def chunks(media: Media, length: int, scale: int = 4) -> Iterator[UInt8[HostArray, "f h w 3"]]:
    """Yields a clip in chunks of at most ``length`` frames, 4k + 1 each.

    Each chunk but the first begins with the last frame of the one before, so that its patches after
    the first one in time are those of the whole clip. Up to three frames at the end, which do not
    fill a patch, are left out.

    Args:
      media: the clip.
      length: 4k + 1, at least 5 for clips that are longer.
      scale: how many times smaller the input will be.

    Raises:
      UserError: frames are smaller than a patch, or a file is damaged.
    """
    multiple = math.lcm(PATCH_PIXELS, scale)
    height, width = (side // multiple * multiple for side in (media.height, media.width))
    if not height or not width:
        raise UserError(
            f"{media.path} is {media.width}x{media.height}: a true clip needs {multiple} pixels a "
            "side"
        )
    held: list[HostArray] = []
    first = True
    for frame in media.frames():
        held.append(to_8_bits(frame[:height, :width]))
        if len(held) == length:
            yield np.stack(held)
            if length == 1:  # of a clip, the first frame alone
                return
            held, first = held[-1:], False
    whole = (len(held) - 1) // PATCH_FRAMES * PATCH_FRAMES + 1
    if first or whole > 1:
        yield np.stack(held[:whole])
