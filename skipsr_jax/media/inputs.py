"""Which files are media, and which inputs a path that a user names stands for.

The extensions here are the only ones that the project knows: a folder is searched by them both for
inference and for training. Hidden files (also unfinished results, see `skipsr_jax.files`) are
passed over everywhere.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Literal

from skipsr_jax.errors import UserError
from skipsr_jax.media.frame_folder import frame_numbers, is_nearly_complete
from skipsr_jax.media.image_reader import image_size

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Extensions of image files that can be read, in lower case."""
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts"}
    | {".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".gif", ".y4m", ".mxf"}
    | {".vob", ".m2t", ".asf", ".f4v", ".3g2", ".ogv"}
)
"""Extensions of video files that can be read, in lower case."""

FolderMeaning = Literal["auto", "frames", "files"]
"""Whether a folder is one clip ("frames"), many inputs ("files"), or whichever it looks like."""


def list_inputs(path: str | os.PathLike, *, folder: FolderMeaning = "auto") -> list[pathlib.Path]:
    """Returns the inputs that ``path`` stands for, each one for `open_media`, in natural order.

    A file stands for itself. A folder with ``folder="frames"`` is one clip, with "files" each video
    and image in it is an input of its own. "auto" takes it for one clip when its media files are a
    sequence of frames (`is_frame_sequence`), else for separate files. A folder without media files
    stands for those of its sub-folders that are clips, as data sets have them. Other files, hidden
    files and other sub-folders are passed over.

    Raises UserError when there is nothing at ``path``, a file is not readable media by its name,
    its size or its permissions, or a folder holds neither a media file nor a folder of frames.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return [checked_file(path)]
    files = media_files(path)
    if not files and folder != "files":
        below = folders_of_images(path)
        clips = [x for x in below if folder == "frames" or is_frame_sequence(media_files(x))]
        if clips:
            return clips
    if folder == "frames":
        return [path]
    if not files:
        raise UserError(f"the folder {path} holds no video, no image and no folder of frames")
    if folder == "auto" and is_frame_sequence(files):
        return [path]
    return files


def folders_of_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The sub-folders that hold images, in natural order; hidden and unreadable ones do not."""
    with os.scandir(folder) as entries:
        found = [pathlib.Path(entry.path) for entry in entries if entry.is_dir()]
    readable = (
        path for path in found if path.name[0] != "." and os.access(path, os.R_OK | os.X_OK)
    )
    return sorted((x for x in readable if media_files(x, IMAGE_EXTENSIONS)), key=_natural_key)


def checked_file(path: pathlib.Path) -> pathlib.Path:
    """Returns ``path`` if it is a readable, non-empty file with one of the known extensions.

    Raises UserError otherwise, with the reason.
    """
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    if not path.is_file():
        raise UserError(f"{path} is a device or a pipe, not a file")
    if not is_media(path):
        known = " ".join(sorted(IMAGE_EXTENSIONS | VIDEO_EXTENSIONS))
        raise UserError(f"{path} is neither a video nor an image by its name (known: {known})")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read; change its permissions")
    return path


def is_image(path: pathlib.PurePath) -> bool:
    """Whether a file is an image by its extension."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def is_media(path: pathlib.PurePath) -> bool:
    """Whether a file is an image or a video by its extension."""
    return path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS


def media_files(
    folder: pathlib.Path, extensions: Collection[str] = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
) -> list[pathlib.Path]:
    """Returns the files directly in a folder that have one of the extensions, in natural order."""
    with os.scandir(folder) as entries:
        found = [
            pathlib.Path(entry.path)
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in extensions
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    return sorted(found, key=_natural_key)


def _natural_key(path: pathlib.Path) -> list[tuple[int, str]]:
    """Digits compare as numbers: frame9 comes before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def is_frame_sequence(files: Sequence[pathlib.Path]) -> bool:
    """Whether all media files of a folder, in natural order, are the frames of one clip.

    They are when there are two or more, all of them images with one extension, named by one prefix
    and consecutive numbers (frame_0001.png, frame_0002.png, ...), and all of one size. One number
    of four may be missing. Images that cannot be read do not count for the size.
    """
    if len(files) < 2 or not is_image(files[0]):
        return False
    if len({file.suffix.lower() for file in files}) > 1:
        return False
    numbers = frame_numbers(files)
    if numbers is None or not is_nearly_complete(numbers):
        return False
    sizes = set()
    for file in files:
        with contextlib.suppress(UserError):  # named when the folder is opened
            sizes.add(image_size(file))
    return len(sizes) == 1
