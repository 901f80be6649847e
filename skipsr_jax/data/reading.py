"""Reading the frames of training clips, any range of them, as 8-bit RGB.

Decoding is that of inference (`skipsr_jax.media`): the same colours, and upright. Videos are
decoded from the key frame before the frames that are wanted, so a long file costs no more than a
short one. With a cache folder each clip is decoded once and then memory-mapped by all data workers
together: right for sets of a few thousand short clips, wrong for terabytes.

Invariant: ``read(source, start, count)`` gives the same bytes however often and from whichever
worker it is called.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from skipsr_jax.data.records import payload
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, message_of
from skipsr_jax.files import new_file
from skipsr_jax.media.colour import RgbFrame, to_8_bits
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.image_reader import read_image
from skipsr_jax.media.inputs import IMAGE_EXTENSIONS, media_files
from skipsr_jax.media.video import Video, open_video
from skipsr_jax.types import HostArray, UInt8

DECODER_VERSION = 3
"""Part of the names of cached clips. Raise it when the decoder gives other pixels for a file, so
that clips cached before are not used. 1: without colour tags and rotation; 2: without
deinterlacing, and without the profiles of CMYK and greys."""

_UNWRITABLE: set[str] = set()
"""Folders of decoded clips that this process could not write."""


def read(
    source: Source,
    start: int,
    count: int,
    cache: str | None = None,
    crop: Crop | None = None,
) -> UInt8[HostArray, "f h w 3"]:
    """Returns frames ``start`` .. ``start + count - 1`` of a clip, or a crop of them, as 8-bit RGB.

    With ``cache``, a folder, the whole clip is decoded once and memory-mapped: the result may be a
    read-only view of the cached file, so copy it before the next. A folder that cannot be written
    is named once in a warning, and clips are decoded each time.

    Raises UserError when the file is damaged or holds fewer frames than announced.
    """
    clip = None if cache is None or cache in _UNWRITABLE else _cached(source, cache)
    if clip is None:
        return np.stack(list(iter_frames(source, start, count, crop)))
    frames = clip[start : start + count]
    return frames if crop is None else _cropped(frames, crop)


def _cached(source: Source, cache: str) -> UInt8[HostArray, "f h w 3"] | None:
    """The whole clip, mapped from its file in ``cache``; None where that cannot be written."""
    stamp = f"{DECODER_VERSION}:{os.stat(source.path).st_mtime_ns}:{source}"
    path = pathlib.Path(cache, hashlib.sha256(stamp.encode()).hexdigest()[:24] + ".npy")
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        clip = np.load(path, mmap_mode="r")
        if (clip.shape, clip.dtype) == ((source.frames, source.height, source.width, 3), np.uint8):
            return clip
    clip = read(source, 0, source.frames)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another worker may write the same clip now: both write the same bytes, the last one wins.
        with new_file(path, overwrite=True) as temporary:
            np.save(temporary, clip)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        _UNWRITABLE.add(cache)
        logging.warning("decoded clips are not kept in %s: %s", cache, message_of(error))
        return None


def iter_frames(
    source: Source, start: int, count: int, crop: Crop | None = None, data: bytes | None = None
) -> Iterator[UInt8[HostArray, "h w 3"]]:
    """Yields frames ``start`` .. ``start + count - 1``, or a crop of them, as 8-bit RGB.

    ``data``: the bytes of the file, where they are at hand.

    Raises UserError when the file is damaged, holds fewer frames than announced, or a frame has
    another size.
    """
    if data is None and source.record is not None:
        data = payload(source.path, source.record)
    number = 0
    for frame in _decoded(source, start, count, crop, data):
        yield to_8_bits(frame)
        number += 1
    if number != count:
        raise UserError(
            f"{source.path}: read {number} frames where {count} were announced; remove the file"
        )


def _decoded(
    source: Source, start: int, count: int, crop: Crop | None, data: bytes | None
) -> Iterator[RgbFrame]:
    path = pathlib.Path(source.path)
    if source.kind == "video":
        video = _video(path) if data is None else open_video(path, data)
        _check_size(source, video.height, video.width)
        stop = min(start + count, video.num_frames)
        yield from video.frames(min(start, stop), stop, crop)
        return
    if source.kind == "image":
        pictures = [(path, data)]
    else:
        files = media_files(path, IMAGE_EXTENSIONS)[start : start + count]
        pictures = [(file, None) for file in files]
    for picture in pictures:
        frame = read_image(*picture).on_black
        _check_size(source, *frame.shape[:2])
        yield frame if crop is None else _cropped(frame, crop)


def _check_size(source: Source, height: int, width: int) -> None:
    if (height, width) != (source.height, source.width):
        raise UserError(
            f"{source.path}: a frame is {width}x{height} where {source.width}x{source.height} were "
            "announced; remove the file"
        )


def _cropped(frames: HostArray, crop: Crop) -> HostArray:
    top, left, height, width = crop
    return frames[..., top : top + height, left : left + width, :]


@functools.lru_cache(maxsize=4096)
def _video(path: pathlib.Path) -> Video:
    """A video file, whose packets are read once in each process."""
    return open_video(path)
