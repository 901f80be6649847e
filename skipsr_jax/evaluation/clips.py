"""Finds the clips of results and of truths, pairs them by name, and reads pairs frame by frame.

What a path may be:

* a video or a picture;
* a folder of numbered frames: one clip;
* a folder of videos, pictures and folders of images: a clip each; the frames of such a folder are
  its images in natural order;
* for truths also a folder with a folder ``GT`` in it, which is taken (DOVE's layout: GT, LQ).

A clip's name is that of its file without the extension, or that of its folder. What infer.py adds
to names ("_x4", "_1280x720") is left out, and so are the mask pictures that it writes beside a
result ("dog_x4_mask" beside "dog_x4"). Clips are paired by name; two that a user names themselves,
rather than the folders that hold them, are paired whatever their names. Invariant: frames are read
one at a time, so that a clip of any length is compared in bounded memory; whatever does not fit
together is in `OpenPair.notes`.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from skipsr_jax.errors import UserError, plural
from skipsr_jax.media.frame_folder import holes
from skipsr_jax.media.inputs import FolderMeaning, folders_of_images, list_inputs, media_files
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.types import HostArray

TRUTH_FOLDER = "GT"
"""The folder of the truths in a data set of DOVE's layout."""
FOLDER_MEANINGS = get_args(FolderMeaning)
FOLDER_HELP = "What a folder of media files is: one clip of frames, a clip for each file, or auto."
HDR_TRANSFERS = (16, 18)
"""PQ and HLG, by H.273."""
_MASK_SUFFIX = "_mask"
_SIZE_SUFFIX = re.compile(r"_(x\d+(\.\d+)?|\d+x\d+)$")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A result and the truth that it is compared with.

    Attributes:
      name: of the clip: the truth's, or the result's where there is no truth.
      result: file or folder of frames.
      truth: file or folder of frames; None: there is none.
    """

    name: str
    result: pathlib.Path
    truth: pathlib.Path | None = None


def find_clips(
    path: str | os.PathLike, *, truth: bool = False, folder: FolderMeaning = "auto"
) -> dict[str, pathlib.Path]:
    """Returns the clips at ``path`` by name, in natural order, each one for `open_media`.

    Args:
      path: as the module's docstring lists.
      truth: whether a folder ``GT`` in it is taken instead.
      folder: what a folder with media files is: "frames" one clip, "files" a clip each, "auto"
        whichever it looks like.

    Raises:
      UserError: there is nothing at ``path``, or two clips have one name.
    """
    path = pathlib.Path(path)
    if truth and (path / TRUTH_FOLDER).is_dir():
        path = path / TRUTH_FOLDER
    found = _without_masks(_inputs(path, folder))
    names = [clip_name(file) for file in found]
    if len(set(names)) < len(names):  # clip_x2.mp4 beside clip_x4.mp4
        names = [_stem(file) for file in found]
    clips: dict[str, pathlib.Path] = {}
    for name, file in zip(names, found, strict=True):
        if name in clips:
            raise UserError(f"{clips[name]} and {file} have one name: rename one or remove it")
        clips[name] = file
    return clips


def _stem(path: pathlib.Path) -> str:
    return path.name if path.is_dir() else path.stem


def _without_masks(found: list[pathlib.Path]) -> list[pathlib.Path]:
    stems = {_stem(file) for file in found}
    masks = {stem + _MASK_SUFFIX for stem in stems} & stems
    return [file for file in found if _stem(file) not in masks]


def _inputs(path: pathlib.Path, folder: FolderMeaning) -> list[pathlib.Path]:
    """The clips at a path: those of `list_inputs`, and folders of images in it."""
    files = list_inputs(path, folder=folder) if not path.is_dir() or media_files(path) else []
    if files == [path]:
        return files
    clips = files + folders_of_images(path)
    if not clips:
        raise UserError(f"the folder {path} holds no video, no image and no folder of images")
    return clips


def files_of(clips: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields the files of clips: a file itself, the frames of a folder."""
    for path in clips:
        yield from media_files(path) if path.is_dir() else [path]


def clip_name(path: pathlib.Path) -> str:
    """The name of the clip at a path, without what infer.py appends."""
    return _SIZE_SUFFIX.sub("", _stem(path))


def is_itself_a_clip(path: str | os.PathLike, clips: Mapping[str, pathlib.Path]) -> bool:
    """Whether ``clips``, of `find_clips` at ``path``, are the path itself, no folder of clips."""
    return list(clips.values()) in ([pathlib.Path(path)], [pathlib.Path(path) / TRUTH_FOLDER])


def other_name(result: pathlib.Path, partner: pathlib.Path | None) -> list[str]:
    """A line where a result and what is paired with it have two names."""
    if partner is None or clip_name(result) == clip_name(partner):
        return []
    return [f"{result} is paired with {partner}, which has another name"]


def pair_clips(
    results: Mapping[str, pathlib.Path],
    truths: Mapping[str, pathlib.Path] | None,
    *,
    any_name: bool = False,
) -> tuple[list[Pair], list[str]]:
    """Pairs results with truths of the same name.

    Args:
      results: clips by name, of `find_clips`.
      truths: the same for the truths; None: there are none.
      any_name: whether one result and one truth need no common name: where a user names both
        themselves (`is_itself_a_clip`), not the folders that hold them.

    Returns:
      The pairs, in the order of the truths, and the names of truths that have no result.

    Raises:
      UserError: a result has no truth, or two have the same one.
    """
    if truths is None:
        return [Pair(name, path) for name, path in results.items()], []
    if any_name and len(results) == len(truths) == 1:
        ((name, truth),), (result,) = truths.items(), results.values()
        return [Pair(name, result, truth)], []
    alone = [path for name, path in results.items() if name not in truths]
    if alone:
        of_one = [path for path in results.values() if clip_name(path) == clip_name(alone[0])]
        if clip_name(alone[0]) in truths and of_one[1:]:
            raise UserError(
                f"{of_one[0]} and {of_one[1]} are both of the clip {clip_name(alone[0])}: put them "
                "into two folders, and name each as a result"
            )
        single = len(results) == len(truths) == 1
        raise UserError(
            f"no truth has the name of {alone[0]}"
            + (f" and of {plural(len(alone) - 1, 'more result')}" if len(alone) > 1 else "")
            + f": truths are {', '.join(list(truths)[:4])}{', ...' if len(truths) > 4 else ''}"
            + ("; to pair two of different names, name the clips, not their folders" * single)
        )
    pairs = [Pair(name, results[name], path) for name, path in truths.items() if name in results]
    return pairs, [name for name in truths if name not in results]


@dataclasses.dataclass(frozen=True)
class OpenPair:
    """A pair whose files have been looked at, and what its frames are cut to.

    Attributes:
      pair: the files.
      result, truth: as `open_media` describes them; ``truth`` is None where there is none.
      size: (height, width) that frames are cut to, from the top left: the smaller of each side.
      notes: one line for each mismatch.
      remarks: one line for each other thing that moves the scores, such as fields or alpha.
    """

    pair: Pair
    result: Media
    truth: Media | None
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """How many frames there are to compare, by the headers of the files."""
        return min(media.num_frames for media in (self.result, self.truth) if media is not None)

    def frames(self) -> Iterator[tuple[HostArray, HostArray | None]]:
        """Yields (result, truth) frame by frame, (h, w, 3), uint8 or uint16 each, cut to ``size``.

        Ends with the shorter one. Both are RGB on the full scale of their dtype; frame i is
        compared with frame i, whatever the time stamps are. Raises UserError when a file turns out
        damaged.
        """
        height, width = self.size
        with contextlib.closing(self.result.frames()) as results:
            if self.truth is None:
                for result in results:
                    yield result, None
                return
            with contextlib.closing(self.truth.frames()) as truths:
                for result, truth in zip(results, truths, strict=False):
                    yield result[:height, :width], truth[:height, :width]


def missing_frames(media: Media) -> str:
    """A line for a folder of frames whose numbers leave some out; "" for anything else."""
    ends = [re.search(r"(\d+)$", file.stem) for file in media.files]
    if not ends or not all(ends):
        return ""
    gaps = holes([int(end[1]) for end in ends if end])
    if not gaps:
        return ""
    more = f" and {len(gaps) - 4} more gaps" if len(gaps) > 4 else ""
    return (
        f"{media.path}: its numbers lack {', '.join(gaps[:4])}{more}: frames are taken in order, "
        "as if there were no gap"
    )


def remarks_of(media: Media) -> list[str]:
    """A line for each thing that is done to a file's pixels when it is read."""
    remarks = []
    if media.video and media.video.field_order:
        remarks.append(f"{media.path} is interlaced: each pair of fields is made one frame (bwdif)")
    if media.kind == "image" and media.note:
        remarks.append(f"{media.path}: {media.note}")
    if media.has_alpha and media.kind != "frames":  # those often have an alpha that is opaque
        remarks.append(f"{media.path}: transparent pixels are laid on black")
    return remarks


def _is_hdr(media: Media) -> bool:
    return media.kind == "video" and media.colour.transfer in HDR_TRANSFERS


def _remarks(pair: Pair, result: Media, truth: Media | None) -> tuple[str, ...]:
    remarks = remarks_of(result)
    if truth is None:
        return tuple(remarks)
    remarks += remarks_of(truth)
    if pair.result.resolve() == pair.truth.resolve():
        remarks.append(f"{pair.result} is compared with itself: name another --truth")
    elif _is_hdr(result) != _is_hdr(truth):
        hdr, other = (result, truth) if _is_hdr(result) else (truth, result)
        remarks.append(f"{hdr.path} is HDR and {other.path} is not: codes are compared as they are")
    return tuple(remarks)


def open_pair(pair: Pair) -> OpenPair:
    """Looks at the files of a pair. Raises UserError when one of them cannot be read."""
    result = open_media(pair.result)
    truth = None if pair.truth is None else open_media(pair.truth)
    notes = [line for media in (result, truth) if media and (line := missing_frames(media))]
    if truth is None:
        whole = result.height, result.width
        return OpenPair(pair, result, None, whole, tuple(notes), _remarks(pair, result, None))
    size = min(result.height, truth.height), min(result.width, truth.width)
    if (result.height, result.width) != (truth.height, truth.width):
        notes.append(
            f"{pair.result} is {result.width}x{result.height}, its truth {truth.width}x"
            f"{truth.height}: both are cut to {size[1]}x{size[0]} from the top left"
        )
    if result.num_frames != truth.num_frames:
        least = min(result.num_frames, truth.num_frames)
        notes.append(
            f"{pair.result} has {plural(result.num_frames, 'frame')}, its truth "
            f"{truth.num_frames}: the first {least} are compared"
        )
    return OpenPair(pair, result, truth, size, tuple(notes), _remarks(pair, result, truth))
