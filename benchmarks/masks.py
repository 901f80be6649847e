"""Keep masks for benchmarks: connected blobs that drift slowly in time, and those of real clips.

    python -m benchmarks.masks --clip=clip720.mp4 --out=real.npy
    python -m benchmarks.masks --clip=one720.mp4,other720.mp4 --out=errors.npz

The first writes Eq. 1's mask of a clip at the target size (t, r, q), its right and lower rest cut
off; the second the errors that Eq. 1 compares with its threshold, an array (t, r, q) a clip, from
which ``clip_masks`` cuts masks that skip any share.
"""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks.measure import run_program
from skipsr_jax.commandline import parse_flags
from skipsr_jax.data.degrade import oracle_error, oracle_mask
from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file
from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS
from skipsr_jax.media.reader import open_media
from skipsr_jax.types import Bool, Float, HostArray, UInt8

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


def real_mask(
    errors: Float[HostArray, "f r q"], grid: tuple[int, int, int], skip: float
) -> Bool[HostArray, "t r q"]:
    """The patches of ``grid`` whose error is above the quantile ``skip``; the clip is repeated in
    time, back and forth, until it is long enough. Raises ValueError when it is of another size."""
    frames, *size = grid
    if tuple(size) != errors.shape[1:]:
        raise ValueError(f"errors of {errors.shape[1:]} patches do not fit a grid of {grid}")
    there_and_back = np.concatenate([errors, errors[-2:0:-1]])
    errors = there_and_back[np.arange(frames) % len(there_and_back)]
    return errors > np.quantile(errors, skip) if skip > 0 else np.ones(grid, bool)


def clip_masks(
    grid: tuple[int, int, int], skip: float, path: str | None
) -> dict[str, Bool[HostArray, "t r q"]]:
    """Masks that skip a share, by name: one for each clip of an .npz of errors, blobs without.

    UserError for a file that cannot be read or holds clips of another size.
    """
    if path is None:
        return {"blobs": blob_mask(grid, skip)}
    try:
        with np.load(path) as clips:
            return {name: real_mask(errors, grid, skip) for name, errors in clips.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"--errors: cannot use {path}: {error}") from error


def define_flags() -> flags.FlagValues:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_list("clip", [], "Video at the target size; several.", flag_values=values)
    flags.DEFINE_integer("frames", 101, "At most so many, 4k + 1 of them.", flag_values=values)
    text = ".npy file to write with one clip's mask, or .npz with the errors of each."
    flags.DEFINE_string("out", None, text, flag_values=values)
    return values


def read_clip(path: str, frames: int) -> UInt8[HostArray, "f h w 3"]:
    """At most so many frames of a video, cut to whole patches."""
    media = open_media(pathlib.Path(path))
    taken = list(itertools.islice(media.frames(), frames))
    height, width = (side - side % PATCH_PIXELS for side in taken[0].shape[:2])
    clip = np.stack([frame[:height, :width] for frame in taken])
    return clip[: len(clip) - (len(clip) - 1) % PATCH_FRAMES]


def main(argv: Sequence[str]) -> int:
    """Eq. 1's mask of a clip, or the errors of several, as a file."""
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
            said = ", ".join(f"{name} {error.shape}" for name, error in errors.items())
        else:
            keep = oracle_mask(*clips.values())
            np.save(temporary, keep)
            said = f"{keep.shape} patches, {100 * (1 - keep.mean()):.1f} % skipped"
    print(f"{out}: {said}")
    return 0


if __name__ == "__main__":
    run_program("masks", main)
