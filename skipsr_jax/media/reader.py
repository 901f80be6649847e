"""Reading clips, images and folders of frames as streams of RGB arrays.

`open_media` looks at the whole input without decoding it (every packet of a video, every header of
a folder), so that a truncated file is refused before any work is spent on it. `Media.frames` then
decodes with constant memory. Invariants: a video yields exactly ``num_frames`` frames, in display
order and orientation, or raises; frame ``i`` is shown at ``times[i]``.
"""

import dataclasses
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8, UInt16

from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import (
    SRGB_VIDEO,
    ColourTags,
    LeftSite,
    RgbFrame,
    bit_depth_of,
    tags_of,
    to_rgb,
)
from skipsr_jax.media.images import IMAGE_EXTENSIONS, image_size, read_image
from skipsr_jax.media.scan import VideoScan, scan_video

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts"}
    | {".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".gif", ".y4m", ".mxf"}
)
FolderMeaning = Literal["auto", "frames", "files"]
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DisplayTransform:
    """How coded rows and columns become shown ones: swap the axes, then flip rows, then columns."""

    swap_axes: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, rgb: RgbFrame) -> UInt8[np.ndarray, "r k 3"] | UInt16[np.ndarray, "r k 3"]:
        """The array as it is shown, ``r`` rows by ``k`` columns."""
        if self.swap_axes:
            rgb = rgb.swapaxes(0, 1)
        rgb = rgb[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(rgb)


_UPRIGHT = DisplayTransform()


@dataclasses.dataclass(frozen=True)
class Media:
    """One input: a video, an image, or a folder of frames. Sizes are as shown (after rotation).

    frame_rate: frames per second, the average when the rate varies; None for images and folders.
    bit_depth: of the source's components; frames are uint8 when it is 8, else uint16 (0..65535).
    num_frames: what `frames` yields (AVI may be one off: it counts coded packets).
    times: seconds of each frame after the first one when the rate varies, else None.
    files: the frames of a folder, in order; empty for the other kinds.
    scan: what the packets of a video say; None for the other kinds.
    """

    path: pathlib.Path
    kind: Literal["video", "image", "frames"]
    height: int
    width: int
    bit_depth: int
    num_frames: int
    frame_rate: Fraction | None = None
    times: tuple[Fraction, ...] | None = None
    colour: ColourTags = SRGB_VIDEO
    sample_aspect_ratio: Fraction = Fraction(1)
    has_audio: bool = False
    transform: DisplayTransform = _UPRIGHT
    files: tuple[pathlib.Path, ...] = ()
    icc_profile: bytes | None = None
    scan: VideoScan | None = None

    def frames(self) -> Iterator[RgbFrame]:
        """Yields the frames one by one, each (height, width, 3); decoding starts anew every call.

        Raises UserError when the file turns out damaged, or when a frame has another size.
        """
        if self.scan is not None:
            return _video_frames(self, self.scan)
        return _still_frames(self)


def open_media(path: str | os.PathLike) -> Media:
    """Describes a video file, an image file, or a folder taken for the frames of one clip.

    Raises UserError when there is nothing readable at ``path``: missing, empty, truncated, of an
    unknown kind, without a video stream, or a folder whose images differ in size. `list_inputs`
    tells a folder of frames from a folder of files.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _open_frames(path)
    extension = _checked_file(path).suffix.lower()
    if extension in IMAGE_EXTENSIONS:
        return _open_stills(path, "image", [path])
    return _open_video(path)


def list_inputs(path: str | os.PathLike, *, folder: FolderMeaning = "auto") -> list[pathlib.Path]:
    """The inputs that ``path`` stands for, each one for `open_media`, in natural order.

    A file stands for itself. A folder with ``folder="frames"`` is one clip, with "files" each video
    and image in it is an input of its own. "auto" takes it for one clip when it holds two images or
    more and no video, all named by one prefix and consecutive numbers with one extension
    (frame_0001.png, frame_0002.png, ...), and all of one size; else for separate files. Other
    files, hidden files and sub-folders are passed over.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return [_checked_file(path)]
    if folder == "frames":
        return [path]
    files = _media_files(path, IMAGE_EXTENSIONS | VIDEO_EXTENSIONS)
    if not files:
        raise UserError(f"the folder {path} holds no video and no image")
    if folder == "auto" and _is_sequence(files):
        return [path]
    return files


def _checked_file(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise UserError(f"there is no file or folder {path}")
    if path.suffix.lower() not in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
        known = " ".join(sorted(IMAGE_EXTENSIONS | VIDEO_EXTENSIONS))
        raise UserError(f"{path} is neither a video nor an image by its name (known: {known})")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read; change its permissions")
    return path


def _media_files(folder: pathlib.Path, extensions: frozenset[str]) -> list[pathlib.Path]:
    found = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in extensions and not file.name.startswith(".") and file.is_file()
    ]
    return sorted(found, key=_natural_key)


def _natural_key(path: pathlib.Path) -> list[tuple[int, str]]:
    """Orders frame9 before frame10: digits compare as numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _is_sequence(files: Sequence[pathlib.Path]) -> bool:
    if len(files) < 2 or files[0].suffix.lower() not in IMAGE_EXTENSIONS:
        return False
    if len({file.suffix.lower() for file in files}) > 1:
        return False
    matches = [re.fullmatch(r"(.*?)(\d+)", file.stem) for file in files]
    if not all(matches) or len({match[1] for match in matches if match}) > 1:
        return False
    numbers = [int(match[2]) for match in matches if match]
    if any(after - before != 1 for before, after in itertools.pairwise(numbers)):
        return False
    return len({image_size(file) for file in files}) == 1


def _open_frames(folder: pathlib.Path) -> Media:
    files = _media_files(folder, IMAGE_EXTENSIONS)
    if not files:
        raise UserError(
            f"the folder {folder} holds no image ({' '.join(sorted(IMAGE_EXTENSIONS))})"
        )
    height, width = image_size(files[0])
    for file in files:
        _check_size(file, image_size(file), (height, width))
    return _open_stills(folder, "frames", files)


def _open_stills(
    path: pathlib.Path, kind: Literal["image", "frames"], files: Sequence[pathlib.Path]
) -> Media:
    first, profile = read_image(files[0])
    return Media(
        path=path,
        kind=kind,
        height=first.shape[0],
        width=first.shape[1],
        bit_depth=8 * first.dtype.itemsize,
        num_frames=len(files),
        files=tuple(files) if kind == "frames" else (),
        icc_profile=profile,
    )


def _still_frames(media: Media) -> Iterator[RgbFrame]:
    for file in media.files or (media.path,):
        rgb, _ = read_image(file)
        _check_size(file, rgb.shape[:2], (media.height, media.width))
        if rgb.dtype.itemsize * 8 != media.bit_depth:
            raise UserError(f"{file} has not the bit depth of the first frame; convert them alike")
        yield rgb


def _check_size(file: pathlib.Path, size: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if tuple(size) != wanted:
        raise UserError(
            f"{file} is {size[1]}x{size[0]} but the first frame is {wanted[1]}x{wanted[0]}: "
            "all frames of a clip must have one size (separate images: folder='files')"
        )


def _open_video(path: pathlib.Path) -> Media:
    scan = scan_video(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[scan.stream_index]
            stream.thread_type = "AUTO"
            frame = next(container.decode(stream))
            ratio = stream.sample_aspect_ratio
    except StopIteration:
        raise UserError(f"{path} holds no frame that can be decoded") from None
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded ({error.strerror})") from error
    transform = _transform_of(frame)
    ratio = Fraction(ratio or 1)
    swap = transform.swap_axes
    return Media(
        path=path,
        kind="video",
        height=frame.width if swap else frame.height,
        width=frame.height if swap else frame.width,
        bit_depth=bit_depth_of(frame.format),
        num_frames=scan.num_frames,
        frame_rate=scan.rate,
        times=scan.times,
        colour=tags_of(frame),
        sample_aspect_ratio=1 / ratio if swap else ratio,
        has_audio=scan.has_audio,
        transform=transform,
        scan=scan,
    )


def _transform_of(frame: av.VideoFrame) -> DisplayTransform:
    """From the display matrix [a b u; c d v; x y w]: column = a x + c y, row = b x + d y."""
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return DisplayTransform()
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return DisplayTransform(True, flip_rows=b < 0, flip_columns=c < 0)
    return DisplayTransform(False, flip_rows=d < 0, flip_columns=a < 0)


def _video_frames(media: Media, scan: VideoScan) -> Iterator[RgbFrame]:
    """Decodes; a frame that the decoder drops is replaced by its neighbour, so that times hold."""
    reformatter = VideoReformatter()
    yielded, repeated, previous = 0, 0, None
    try:
        with av.open(str(media.path)) as container:
            stream = container.streams.video[scan.stream_index]
            stream.thread_type = "AUTO"
            state_site = LeftSite(stream.codec_context.codec.canonical_name)
            for frame in container.decode(stream):
                rgb = to_rgb(state_site(frame), media.colour, reformatter)
                rgb = media.transform.apply(rgb)
                _check_size(media.path, rgb.shape[:2], (media.height, media.width))
                for _ in range(scan.frames_before(frame.pts) - yielded):
                    yield rgb if previous is None else previous
                    yielded, repeated = yielded + 1, repeated + 1
                yield rgb
                yielded, previous = yielded + 1, rgb
    except av.FFmpegError as error:
        raise UserError(
            f"{media.path} is damaged: decoding stopped at frame {yielded} ({error.strerror})"
        ) from error
    if repeated:
        _LOG.warning(
            "%s: %d frames could not be decoded and repeat a neighbour", media.path, repeated
        )
    tolerance = 1 if scan.ticks is None else 0
    if yielded < max(1, scan.num_frames - tolerance):
        raise UserError(
            f"{media.path} is damaged: only {yielded} of {scan.num_frames} frames can be decoded"
        )
