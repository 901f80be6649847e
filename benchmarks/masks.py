"""Keep masks for benchmarks: connected blobs that drift slowly in time, and those of real clips.

    python -m benchmarks.masks --clip=clip720.mp4 --out=real.npy

writes Eq. 1's mask of a clip at the target size (t, r, q), its right and lower rest cut off.
"""

import itertools
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from skipsr_jax.data.degrade import oracle_mask
from skipsr_jax.data.reader import open_media
from skipsr_jax.errors import UserError
from skipsr_jax.tokens.criterion import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.types import Bool, HostArray

SMOOTHING = (3, 5, 5)
"""Box filter over (time, rows, columns) in tokens, applied twice: blobs of some hundred pixels."""


def _smoothed(field: np.ndarray, width: int, axis: int) -> np.ndarray:
    """Running mean along an axis; the field is mirrored at its ends."""
    before, after = (width - 1) // 2, width // 2
    pad = [(0, 0)] * field.ndim
    pad[axis] = (before + 1, after)
    total = np.cumsum(np.pad(field, pad, mode="symmetric"), axis=axis)
    ahead = np.take(total, np.arange(width, total.shape[axis]), axis=axis)
    behind = np.take(total, np.arange(0, total.shape[axis] - width), axis=axis)
    return (ahead - behind) / width


def blob_mask(grid: tuple[int, int, int], skip: float, seed: int = 0) -> Bool[HostArray, "t r c"]:
    """A keep mask over ``grid`` = (time, rows, columns) tokens, of which ``skip`` (0..1) are False.

    Smoothed noise, cut at the quantile that skips that share, to the token.
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip is {skip}: it must be from 0 to below 1")
    field = np.random.default_rng(seed).standard_normal(grid)
    for _ in range(2):
        for axis, width in enumerate(SMOOTHING):
            if grid[axis] > 1:
                field = _smoothed(field, width, axis)
    keep = np.ones(field.size, bool)
    keep[np.argsort(field, axis=None, kind="stable")[: round(skip * field.size)]] = False
    return keep.reshape(grid)


def load_mask(path: str) -> Bool[HostArray, "t r q"]:
    """The keep mask in an .npy file. UserError for a file that is no mask."""
    try:
        keep = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--masks: cannot read {path}: {error}") from error
    if keep.ndim != 3 or keep.dtype != bool:
        raise UserError(
            f"--masks: {path} holds {keep.dtype} {keep.shape}: "
            "it must hold booleans (t, r, q), True where a patch runs"
        )
    return keep


def define_flags() -> flags.FlagValues:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("clip", None, "Video at the target size.", flag_values=values)
    flags.DEFINE_integer("frames", 101, "At most so many, 4k + 1 of them.", flag_values=values)
    flags.DEFINE_string("out", None, ".npy file to write.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Eq. 1's mask of a clip, as a file."""
    values = define_flags()
    values(list(argv))
    if not values.clip or not values.out:
        raise UserError("name --clip, a video, and --out, the .npy file to write")
    media = open_media(pathlib.Path(values.clip))
    frames = list(itertools.islice(media.frames(), values.frames))
    height, width = (side - side % PATCH_PIXELS for side in frames[0].shape[:2])
    clip = np.stack([frame[:height, :width] for frame in frames])
    keep = oracle_mask(clip[: len(clip) - (len(clip) - 1) % PATCH_FRAMES])
    part = f"{values.out}.part"
    with open(part, "wb") as file:
        np.save(file, keep)
    os.replace(part, values.out)
    print(f"{values.out}: {keep.shape} patches, {100 * (1 - keep.mean()):.1f} % skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
