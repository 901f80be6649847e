"""Where training clips come from: videos, pictures, frame folders, built datasets, read at random.

A source is one clip with its number of frames and its size. Videos are decoded from the key frame
before the wanted frames, so a long file costs no more than a short one. With a cache folder each
clip is decoded once and then memory-mapped by all data workers together: right for sets of a few
thousand short clips, wrong for terabytes.

Invariant: ``read(source, start, count)`` gives the same bytes however often and from whichever
worker it is called.
"""

import functools
import hashlib
import io
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import av
import numpy as np
from PIL import Image

from skipsr_jax.data.records import find_records, is_built, payload
from skipsr_jax.data.source import Kind, Source
from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file
from skipsr_jax.types import HostArray, UInt8

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".y4m"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


def find_sources(roots: Sequence[str]) -> tuple[Source, ...]:
    """Every clip and picture below the folders ``roots``, in the order of their paths.

    A folder that holds two or more pictures and nothing else, all names ending in a number, is one
    clip; every other picture stands for itself. Other files are passed over. A root may also be a
    dataset that skipsr_jax.data.build wrote; its clips come in the order of its records.

    Raises UserError when a root is missing, a file cannot be read, or nothing is found.
    """
    found: list[Source] = []
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"training data folder not found: {root}")
        if is_built(root):
            found += find_records(root)
            continue
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
    return tuple(sorted(found, key=lambda source: (source.path, source.record or 0)))


def _is_frame_folder(paths: list[pathlib.Path], is_root: bool) -> bool:
    numbered = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and _number(p) is not None]
    return not is_root and len(paths) > 1 and len(numbered) == len(paths)


def _number(path: pathlib.Path) -> int | None:
    match = re.search(r"(\d+)$", path.stem)
    return int(match.group(1)) if match else None


def _frame_paths(folder: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).iterdir(), key=lambda p: (_number(p) or 0, p.name))


def _probe_image(path: pathlib.Path) -> Source:
    return _probed(str(path), "image", str(path))


def _probe_frames(folder: str, paths: list[pathlib.Path]) -> Source:
    first = _probe_image(paths[0])
    return Source(folder, "frames", len(paths), first.height, first.width)


def _probe_video(path: pathlib.Path) -> Source:
    return _probed(str(path), "video", str(path))


def probe_bytes(data: bytes, kind: Kind, name: str) -> Source:
    """What an encoded file holds that is in memory; ``name`` stands in the result and in errors.

    Raises UserError when it cannot be read.
    """
    return _probed(data, kind, name)


def _probed(file: str | bytes, kind: Kind, name: str) -> Source:
    try:
        if kind == "image":
            with Image.open(_opening(file)) as image:
                width, height = image.size
            return Source(name, kind, 1, height, width)
        times, _ = _index(file)
        with av.open(_opening(file)) as container:
            stream = container.streams.video[0]
            height, width = stream.codec_context.height, stream.codec_context.width
    except (av.FFmpegError, IndexError, OSError) as error:
        what = "picture" if kind == "image" else "video"
        raise UserError(f"cannot read the {what} {name}: {error}") from error
    return Source(name, kind, len(times), height, width)


def _opening(file: str | bytes) -> str | io.BytesIO:
    """What Pillow and PyAV open: a path, or bytes as a file."""
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _index(file: str | bytes) -> tuple[HostArray, HostArray]:
    """Presentation times of all frames and of the key frames, in stream units, sorted."""
    return _index_of_path(file) if isinstance(file, str) else _scan(file)


@functools.lru_cache(maxsize=4096)
def _index_of_path(path: str) -> tuple[HostArray, HostArray]:
    return _scan(path)


def _scan(file: str | bytes) -> tuple[HostArray, HostArray]:
    times, keys = [], []
    with av.open(_opening(file)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pts is not None:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    return np.array(sorted(times), np.int64), np.array(sorted(keys), np.int64)


def each_frame(
    source: Source, start: int, count: int, data: bytes | None = None
) -> Iterator[UInt8[HostArray, "h w 3"]]:
    """Frames ``start`` .. ``start + count - 1`` as 8-bit RGB, one by one.

    ``data``: the encoded file, where it is at hand. Raises UserError when there are fewer frames
    than announced, or one has another size.
    """
    file: str | bytes = source.path if data is None else data
    if data is None and source.record is not None:
        file = payload(source.path, source.record)
    if source.kind == "image":
        frames = iter([_picture(file)])
    elif source.kind == "frames":
        frames = (_picture(str(p)) for p in _frame_paths(source.path)[start : start + count])
    else:
        frames = _decode_video(file, start, count)
    read_count, shape = 0, (source.height, source.width, 3)
    for frame in frames:
        if frame.shape != shape:
            raise UserError(f"{source.path}: a frame is {frame.shape}, not {shape}; remove it")
        yield frame
        read_count += 1
    if read_count != count:
        raise UserError(
            f"{source.path}: read {read_count} frames where {count} of {shape} were announced; "
            "remove the file"
        )


def decode(source: Source, start: int, count: int) -> UInt8[HostArray, "f h w 3"]:
    """Frames ``start`` .. ``start + count - 1`` as 8-bit RGB.

    Raises UserError when the file holds fewer frames than it announced.
    """
    return np.stack(list(each_frame(source, start, count)))


def _picture(file: str | bytes) -> HostArray:
    with Image.open(_opening(file)) as image:
        return np.asarray(image.convert("RGB"))


def _decode_video(file: str | bytes, start: int, count: int) -> Iterator[HostArray]:
    times, keys = _index(file)
    wanted = set(times[start : start + count].tolist())
    before = keys[keys <= times[start]]
    with av.open(_opening(file)) as container:
        stream = container.streams.video[0]
        if len(before):
            container.seek(int(before[-1]), stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                wanted.remove(frame.pts)
                yield frame.to_ndarray(format="rgb24")
                if not wanted:
                    return


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
        with new_file(path, overwrite=True) as temporary:
            np.save(temporary, clip)
    return np.load(path, mmap_mode="r")[start : start + count]
