"""Makes keep masks for benchmarks: connected blobs that move slowly, and masks of real clips.

    python -m benchmarks.masks --clip=clip720.mp4 --out=real.npy
    python -m benchmarks.masks --clip=one720.mp4,other720.mp4 --out=errors.npz

The first command writes Eq. 1's mask (t, r, q) of a clip at the target size, cropped to whole
patches. The second writes the errors that Eq. 1 compares with its threshold, one array (t, r, q)
for each clip. From these `clip_masks` makes masks that skip any fraction of the patches.
"""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks.measure import run_program
from skipsr_jax.commandline import parse_flags
from skipsr_jax.data.oracle import oracle_error, oracle_mask
from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file
from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.reader import open_media
from skipsr_jax.types import Bool, Float, HostArray, UInt8

SMOOTHING = (3, 5, 5)
"""Widths in tokens of a box filter over (time, rows, columns). It is applied twice, which gives
blobs of some hundred pixels."""


def _smoothed(field: np.ndarray, width: int, axis: int) -> np.ndarray:
    """The running mean along an axis; the field is mirrored at its ends."""
    before, after = (width - 1) // 2, width // 2
    pad = [(0, 0)] * field.ndim
    pad[axis] = (before + 1, after)
    total = np.cumsum(np.pad(field, pad, mode="symmetric"), axis=axis)
    upper = np.take(total, np.arange(width, total.shape[axis]), axis=axis)
    lower = np.take(total, np.arange(0, total.shape[axis] - width), axis=axis)
    return (upper - lower) / width


def blob_mask(grid: tuple[int, int, int], skip: float, seed: int = 0) -> Bool[HostArray, "t r q"]:
    """A keep mask over ``grid`` = (time, rows, columns) tokens, of which ``skip`` (0..1) are False.

    It is smoothed noise, thresholded so that exactly that fraction of tokens, rounded, is skipped.
    Raises ValueError when ``skip`` is out of range.
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
    """The keep mask in an .npy file. Raises UserError for a file that holds anything else."""
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


def real_mask(
    errors: Float[HostArray, "f r q"], grid: tuple[int, int, int], skip: float
) -> Bool[HostArray, "t r q"]:
    """A keep mask of the patches of ``grid`` whose error is above the quantile ``skip``.

    A shorter clip is repeated in time, backwards and forwards, until it is long enough. Raises
    ValueError when ``grid`` has other rows or columns.
    """
    frames, *size = grid
    if tuple(size) != errors.shape[1:]:
        raise ValueError(f"errors of {errors.shape[1:]} patches do not fit a grid of {grid}")
    there_and_back = np.concatenate([errors, errors[-2:0:-1]])
    errors = there_and_back[np.arange(frames) % len(there_and_back)]
    return errors > np.quantile(errors, skip) if skip > 0 else np.ones(grid, bool)


def clip_masks(
    grid: tuple[int, int, int], skip: float, path: str | None
) -> dict[str, Bool[HostArray, "t r q"]]:
    """Masks that skip the fraction ``skip``, by name.

    There is one for each clip of the .npz of errors ``path``; without a path there is one of blobs.
    Raises UserError for a file that cannot be read or holds clips of another size.
    """
    if path is None:
        return {"blobs": blob_mask(grid, skip)}
    try:
        with np.load(path) as clips:
            return {name: real_mask(errors, grid, skip) for name, errors in clips.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"--errors: cannot use {path}: {error}") from error


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_list("clip", [], "One video at the target size, or several.", flag_values=values)
    flags.DEFINE_integer("frames", 101, "The most frames of each, 4k + 1.", flag_values=values)
    text = ".npy file to write with one clip's mask, or .npz with the errors of each."
    flags.DEFINE_string("out", None, text, flag_values=values)
    return values


def read_clip(path: str, frames: int) -> UInt8[HostArray, "f h w 3"]:
    """The first ``frames`` frames of a video or fewer, cropped to whole patches."""
    media = open_media(pathlib.Path(path))
    taken = list(itertools.islice(media.frames(), frames))
    height, width = (side - side % PATCH_PIXELS for side in taken[0].shape[:2])
    clip = np.stack([frame[:height, :width] for frame in taken])
    return clip[: len(clip) - (len(clip) - 1) % PATCH_FRAMES]


def main(argv: Sequence[str]) -> int:
    """Writes Eq. 1's mask of a clip, or the errors of several."""
    values = parse_flags(argv, define_flags(), __doc__)
    out = values.out or ""
    if not values.clip or not out.endswith((".npy", ".npz")):
        raise UserError("name --clip, a video or several, and --out, the .npy or .npz to write")
    if out.endswith(".npy") and len(values.clip) > 1:
        raise UserError("--out: an .npy holds one mask; name one --clip, or an .npz for the errors")
    clips = {pathlib.Path(path).stem: read_clip(path, values.frames) for path in values.clip}
    with new_file(pathlib.Path(out), overwrite=True) as temporary:
        if out.endswith(".npz"):
            errors = {name: oracle_error(clip) for name, clip in clips.items()}
            np.savez(temporary, **errors)
            summary = ", ".join(f"{name} {error.shape}" for name, error in errors.items())
        else:
            keep = oracle_mask(*clips.values())
            np.save(temporary, keep)
            summary = f"{keep.shape} patches, {100 * (1 - keep.mean()):.1f} % skipped"
    print(f"{out}: {summary}")
    return 0


if __name__ == "__main__":
    run_program("masks", main)
