"""The page of a comparison: the results of each clip beside its input and truth, with scores."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import find_clips, is_itself_a_clip, other_name, pair_clips
from skipsr_jax.evaluation.page.contents import Clip, Plot, Version, masks_of_frames
from skipsr_jax.evaluation.page.write import write_page
from skipsr_jax.geometry import token_grid
from skipsr_jax.media.inputs import FolderMeaning
from skipsr_jax.media.reader import open_media
from skipsr_jax.types import Bool, HostArray

PLOT_EXTENSIONS = (".png", ".svg", ".webp", ".jpg", ".jpeg")
INPUT_FOLDER = "LQ"
"""The folder of the inputs in a data set of DOVE's layout."""


def read_masks(path: str | os.PathLike) -> dict[str, Bool[HostArray, "t r q"]]:
    """Keep masks by the names of their clips, from an .npy file or a folder of such files.

    Raises UserError for a path without masks, or a file that holds anything but booleans (t, r, q).
    """
    files = mask_files(path)
    if not files:
        raise UserError(f"--mask: the folder {path} holds no .npy file")
    masks = {}
    for file in files:
        keep = _read_array(file)
        if keep.ndim != 3 or keep.dtype != bool:
            raise UserError(
                f"--mask: {file} holds {keep.dtype} {keep.shape}: it must hold booleans (t, r, q), "
                "True where a patch runs"
            )
        masks[file.stem] = keep
    return masks


def mask_files(path: str | os.PathLike) -> list[pathlib.Path]:
    """The files of masks at a path: the .npy files of a folder, or the file itself."""
    path = pathlib.Path(path)
    return sorted(path.glob("*.npy")) if path.is_dir() else [path]


def input_folder(
    inputs: str | os.PathLike | None, truth: str | os.PathLike | None
) -> str | os.PathLike | None:
    """Where the inputs are: ``inputs``, else the folder ``LQ`` in that of the truths, else None."""
    if inputs is None and truth is not None and (pathlib.Path(truth) / INPUT_FOLDER).is_dir():
        return pathlib.Path(truth) / INPUT_FOLDER
    return inputs


def _read_array(file: pathlib.Path) -> HostArray:
    try:
        found = np.load(file)
        if isinstance(found, np.ndarray):
            return found
    except OSError as error:
        raise UserError(f"--mask: cannot read {file}: {error.strerror or error}") from error
    except (ValueError, EOFError):  # whose text advises to load pickles
        pass
    raise UserError(f"--mask: {file} is damaged, or no .npy file")


def check_plots(plots: Sequence[str | os.PathLike]) -> None:
    """Raises UserError for a plot that is missing, or that is no picture which browsers show."""
    for plot in map(pathlib.Path, plots):
        if plot.suffix.lower() not in PLOT_EXTENSIONS:
            raise UserError(f"--plots: {plot} is none of {' '.join(PLOT_EXTENSIONS)}")
        if not plot.is_file():
            raise UserError(f"--plots: there is no file {plot}")


def _check_mask(clip: str, keep: Bool[HostArray, "t r q"], result: str | os.PathLike) -> None:
    """Raises UserError unless a mask has the patches of the result, in each latent frame or one."""
    media = open_media(result)
    grid = token_grid(media.num_frames, media.height, media.width)
    if keep.shape not in (grid, (1, *grid[1:])):
        raise UserError(
            f"--mask: the mask of {clip} is {keep.shape}, but {result} has {grid} patches (t, r, q)"
        )


def clips_to_show(
    results: Mapping[str, str | os.PathLike],
    truth: str | os.PathLike | None = None,
    inputs: str | os.PathLike | None = None,
    masks: Mapping[str, Mapping[str, Bool[HostArray, "t r q"]]] | None = None,
    folder: FolderMeaning = "auto",
    seconds: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    *,
    masks_by_name: bool = False,
) -> list[Clip]:
    """The clips of a comparison, with every version that there is of each.

    Args:
      results, truth, folder: as `skipsr_jax.evaluation.compare.compare` takes them.
      inputs: the low-quality clips, found and named like the truths; one that is named itself needs
        no common name with one clip; None: the folder ``LQ`` beside
        the truths' ``GT``, where there is one.
      masks: keep masks by what made them and by clip.
      seconds: of each stage, by result and clip.
      masks_by_name: whether one mask and one clip need a common name too.

    Raises:
      UserError: as of ``compare``; there is no clip for an input or a mask; a mask has not the
        clip's patches.
    """
    truths = None if truth is None else find_clips(truth, truth=True, folder=folder)
    inputs = input_folder(inputs, truth)
    versions: dict[str, list[Version]] = {}
    for name, path in results.items():
        found = find_clips(path, folder=folder)
        any_name = (
            bool(truths) and is_itself_a_clip(path, found) and is_itself_a_clip(truth, truths)
        )
        for pair in pair_clips(found, truths, any_name=any_name)[0]:
            of_clip = (seconds or {}).get(name, {}).get(pair.name, {})
            made = Version(name, pair.result, "result", of_clip)
            versions.setdefault(pair.name, []).append(made)
    clips = list(versions)
    if truths is not None:
        for clip in clips:
            versions[clip].append(Version("truth", truths[clip], "truth"))
    if inputs is not None:
        found = find_clips(inputs, folder=folder)
        named = is_itself_a_clip(inputs, found)
        for clip, path in _by_clip("--input", found, clips, any_name=named).items():
            versions[clip].insert(0, Version("input", path, "input"))
    of_clips: dict[str, dict[str, HostArray]] = {clip: {} for clip in clips}
    for name, found in (masks or {}).items():
        for clip, keep in _by_clip("--mask", found, clips, any_name=not masks_by_name).items():
            made = [version.path for version in versions[clip] if version.role == "result"]
            _check_mask(clip, keep, made[0])
            of_clips[clip][name] = masks_of_frames(keep)
    return [Clip(clip, versions[clip], of_clips[clip]) for clip in clips]


def inputs_of_other_names(clips: Sequence[Clip]) -> list[str]:
    """A line for each clip whose input has another name than its first result."""
    lines = []
    for clip in clips:
        by_role = {version.role: pathlib.Path(version.path) for version in reversed(clip.versions)}
        lines += other_name(by_role["result"], by_role.get("input"))
    return lines


def _by_clip(
    flag: str, found: Mapping[str, Any], clips: Sequence[str], *, any_name: bool
) -> dict[str, Any]:
    """What belongs to clips by name; ``any_name``: one thing and one clip need no common name."""
    if any_name and len(found) == len(clips) == 1:
        return {clips[0]: next(iter(found.values()))}
    matching = {clip: found[clip] for clip in clips if clip in found}
    if not matching:
        raise UserError(
            f"{flag}: no name is that of a clip: {', '.join(list(found)[:4])}; clips are "
            f"{', '.join(clips[:4])}"
        )
    return matching


def grouped(notes: Sequence[str]) -> list[str]:
    """Notes of ``compare`` in fewer lines: those that say one thing of several files become one."""
    files: dict[str, list[str]] = {}
    for note in notes:
        path, colon, said = note.partition(": ")
        files.setdefault(said if colon else note, []).append(path)
    return [
        said if said == of[0] else f"{of[0]}{f' and {len(of) - 1} more' if of[1:] else ''}: {said}"
        for said, of in files.items()
    ]


def write_comparison(
    path: pathlib.Path,
    clips: Sequence[Clip],
    scores: Mapping[str, Any],
    *,
    plots: Sequence[str | os.PathLike] = (),
    overwrite: bool = False,
) -> None:
    """Writes the page of a comparison.

    Args:
      path: of the page, as of `write_page`.
      clips: of `clips_to_show`.
      scores: of ``compare``.
      plots: pictures to show below, by path.
      overwrite: whether to replace a page.
    """
    names = ", ".join(scores["results"])
    pictures = [Plot(plot, pathlib.Path(plot).stem.replace("_", " ")) for plot in plots]
    write_page(
        path, clips, title=f"Comparison of {names}", scores=scores, plots=pictures,
        notes=grouped(scores.get("notes", ())), overwrite=overwrite,
    )  # fmt: skip
