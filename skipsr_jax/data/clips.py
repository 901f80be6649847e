"""Where training clips come from: folders of videos, pictures and frame folders, read at random.

A source is one clip with its number of frames and its size. Videos are decoded from the key frame
before the wanted frames, so a long file costs no more than a short one. With a cache folder each
clip is decoded once and then memory-mapped by all data workers together: right for sets of a few
thousand short clips, wrong for terabytes.

Invariant: ``read(source, start, count)`` gives the same bytes however often and from whichever
worker it is called.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Literal

import av
import numpy as np
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.types import HostArray, UInt8

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".y4m"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

Kind = Literal["video", "image", "frames"]


@dataclasses.dataclass(frozen=True)
class Source:
    """One clip on disk.

    Attributes:
      path: the file, or the folder of frames.
      kind: what it is; ``frames`` is a folder of numbered pictures.
      frames: number of frames, 1 for a picture.
      height, width: in pixels.
    """

    path: str
    kind: Kind
    frames: int
    height: int
    width: int


def find_sources(roots: Sequence[str]) -> tuple[Source, ...]:
    """Every clip and picture below the folders ``roots``, in the order of their paths.

    A folder that holds two or more pictures and nothing else, all names ending in a number, is one
    clip; every other picture stands for itself. Other files are passed over.

    Raises UserError when a root is missing, a file cannot be read, or nothing is found.
    """
    found: list[Source] = []
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"training data folder not found: {root}")
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            paths = [pathlib.Path(folder, name) for name in sorted(names)]
            if _is_frame_folder(paths, folder == root):
                found.append(_probe_frames(folder, paths))
                continue
            found += [_probe_image(p) for p in paths if p.suffix.lower() in IMAGE_SUFFIXES]
            found += [_probe_video(p) for p in paths if p.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise UserError(f"no videos or pictures found in {', '.join(roots) or 'an empty list'}")
    return tuple(sorted(found, key=lambda source: source.path))


def _is_frame_folder(paths: list[pathlib.Path], is_root: bool) -> bool:
    numbered = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and _number(p) is not None]
    return not is_root and len(paths) > 1 and len(numbered) == len(paths)


def _number(path: pathlib.Path) -> int | None:
    match = re.search(r"(\d+)$", path.stem)
    return int(match.group(1)) if match else None


def _frame_paths(folder: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).iterdir(), key=lambda p: (_number(p) or 0, p.name))


def _probe_image(path: pathlib.Path) -> Source:
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError as error:
        raise UserError(f"cannot read the picture {path}: {error}") from error
    return Source(str(path), "image", 1, height, width)


def _probe_frames(folder: str, paths: list[pathlib.Path]) -> Source:
    first = _probe_image(paths[0])
    return Source(folder, "frames", len(paths), first.height, first.width)


def _probe_video(path: pathlib.Path) -> Source:
    try:
        times, _ = _index(str(path))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            height, width = stream.codec_context.height, stream.codec_context.width
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"cannot read the video {path}: {error}") from error
    return Source(str(path), "video", len(times), height, width)


@functools.lru_cache(maxsize=4096)
def _index(path: str) -> tuple[HostArray, HostArray]:
    """Presentation times of all frames and of the key frames, in stream units, sorted."""
    times, keys = [], []
    with av.open(path) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pts is not None:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    return np.array(sorted(times), np.int64), np.array(sorted(keys), np.int64)


def decode(source: Source, start: int, count: int) -> UInt8[HostArray, "f h w 3"]:
    """Frames ``start`` .. ``start + count - 1`` as 8-bit RGB.

    Raises UserError when the file holds fewer frames than it announced.
    """
    if source.kind == "image":
        frames = [_picture(source.path)]
    elif source.kind == "frames":
        frames = [_picture(str(p)) for p in _frame_paths(source.path)[start : start + count]]
    else:
        frames = _decode_video(source.path, start, count)
    if len(frames) != count or frames[0].shape != (source.height, source.width, 3):
        raise UserError(
            f"{source.path}: read {len(frames)} frames of {frames[0].shape if frames else ()} "
            f"where {count} of {(source.height, source.width, 3)} were announced; remove the file"
        )
    return np.stack(frames)


def _picture(path: str) -> HostArray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _decode_video(path: str, start: int, count: int) -> list[HostArray]:
    times, keys = _index(path)
    wanted = set(times[start : start + count].tolist())
    before = keys[keys <= times[start]]
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        if len(before):
            container.seek(int(before[-1]), stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == count:
                    break
    return frames


def read(
    source: Source, start: int, count: int, cache: str | None = None
) -> UInt8[HostArray, "f h w 3"]:
    """Like ``decode``; with ``cache``, a folder, the whole clip is decoded once and memory-mapped.

    The result may be a read-only view of the cached file: copy what you crop from it.
    """
    if cache is None:
        return decode(source, start, count)
    stamp = f"{source.path}:{os.stat(source.path).st_mtime_ns}:{source}"
    path = pathlib.Path(cache, hashlib.sha256(stamp.encode()).hexdigest()[:24] + ".npy")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = decode(source, 0, source.frames)
        # Another worker may write the same clip now: both write the same bytes, the last one wins.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.save(file, clip)
        os.replace(file.name, path)
    return np.load(path, mmap_mode="r")[start : start + count]
