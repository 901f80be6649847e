"""Describing inputs: a video, an image, or a folder of frames, as a stream of RGB arrays.

`open_media` looks at the whole input without decoding it (every packet of a video, every header of
a folder), so that a truncated file is refused before any work is spent on it. `Media.frames` then
decodes with constant memory. Invariants: a video yields exactly ``num_frames`` frames, in display
order and orientation, unless it is damaged; frame ``i`` is shown at ``times[i]``.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

from skipsr_jax.errors import UserError
from skipsr_jax.media.alpha import opaque
from skipsr_jax.media.colour import SRGB_VIDEO, ColourTags, RgbFrame
from skipsr_jax.media.deinterlace import Mode
from skipsr_jax.media.frame_folder import checked_headers, missing_note
from skipsr_jax.media.image_reader import Still, read_image
from skipsr_jax.media.inputs import IMAGE_EXTENSIONS, checked_file, is_image, media_files
from skipsr_jax.media.scan import Truncated
from skipsr_jax.media.timing import Timing
from skipsr_jax.media.video import Video, open_video
from skipsr_jax.types import HostArray


@dataclasses.dataclass(frozen=True)
class Media:
    """One input: a video, an image, or a folder of frames.

    Attributes:
      path: the file or the folder.
      kind: what it is.
      height, width: of the frames as shown (after rotation), in pixels.
      bit_depth: of the source's components; frames are uint8 when it is 8, else uint16 (0..65535).
      num_frames: what `frames` yields, unless the file is damaged.
      first: of the file's frames, where only a part of them is read.
      after: how many frames of the file follow that part.
      colour: the tags of a video; of images what they become when they are written as video.
      sample_aspect_ratio: width over height of a pixel as shown.
      has_audio: whether a video has an audio stream.
      files: the frames of a folder, in order; empty for the other kinds.
      icc_profile: of an image or of a folder's first image.
      video: the decoder of a video; None for the other kinds.
      has_alpha: whether pixels may be transparent.
      keep_alpha: whether `frames` yields colours as they are, beside `alphas`; else they are laid
        on black.
      note: what was done to an image's values, or which frames a folder lacks; "" for nothing.
    """

    path: pathlib.Path
    kind: Literal["video", "image", "frames"]
    height: int
    width: int
    bit_depth: int
    num_frames: int
    colour: ColourTags = SRGB_VIDEO
    sample_aspect_ratio: Fraction = Fraction(1)
    has_audio: bool = False
    files: tuple[pathlib.Path, ...] = ()
    icc_profile: bytes | None = None
    video: Video | None = None
    has_alpha: bool = False
    keep_alpha: bool = False
    note: str = ""
    first: int = 0
    after: int = 0

    def part(self, first: int, count: int | None = None) -> "Media":
        """The input without its first ``first`` frames, and with at most ``count`` of the others.

        Raises UserError when no frame is left.
        """
        rest = self.num_frames - first
        kept = rest if count is None else min(rest, count)
        if first < 0 or kept < 1:
            raise UserError(f"{self.path} has {self.num_frames} frames: no frame of them is wanted")
        return dataclasses.replace(
            self,
            num_frames=kept,
            files=self.files[first : first + kept],
            first=self.first + first,
            after=self.after + rest - kept,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it is read, a line each."""
        if self.video:
            return self.video.notes
        return (self.note,) if self.note else ()

    @property
    def timing(self) -> Timing | None:
        """When the frames of a video are shown; None for images and folders."""
        return self.video.timing.part(self.first, self.num_frames) if self.video else None

    @property
    def frame_rate(self) -> Fraction | None:
        """Frames per second, the average when the rate varies; None for images and folders."""
        return self.timing.rate if self.timing else None

    @property
    def times(self) -> tuple[Fraction, ...] | None:
        """Seconds of each frame after the first one when the rate of a video varies, else None."""
        return self.timing.times if self.timing else None

    def frames(self) -> Iterator[RgbFrame]:
        """Yields the frames one by one, each (height, width, 3); decoding starts anew every call.

        Raises UserError when the file turns out damaged, or when a frame has another size.
        """
        if self.video:
            return self._limited(self.video.frames(self.first, keep_alpha=self.keep_alpha))
        return (still.rgb if self.keep_alpha else still.on_black for still in _stills(self))

    def alphas(self) -> Iterator[HostArray]:
        """Yields the alpha (height, width) of each of `frames`, of the same dtype."""
        if self.video:
            return self._limited(self.video.alphas(self.first))
        stills = _stills(self)
        return (opaque(each.rgb) if each.alpha is None else each.alpha for each in stills)

    def _limited(self, frames: Iterator[HostArray]) -> Iterator[HostArray]:
        """The frames up to the end of the part; all that come where it has no end of its own."""
        return itertools.islice(frames, self.num_frames) if self.after else frames


def open_media(
    path: str | os.PathLike, *, deinterlace: Mode = "auto", truncated: Truncated = "refuse"
) -> Media:
    """Describes a video file, an image file, or a folder taken for the frames of one clip.

    ``deinterlace``: what is done to interlaced frames of a video. ``truncated``: what is done with
    a video that ends early.

    Raises UserError when there is nothing readable at ``path``: missing, empty, truncated, of an
    unknown kind, without a video stream, or a folder whose images differ in size. `list_inputs`
    tells a folder of frames from a folder of files.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _open_frames(path)
    if is_image(checked_file(path)):
        return _open_stills(path, "image", [path])
    video = open_video(path, deinterlace=deinterlace, truncated=truncated)
    return Media(
        path=path,
        kind="video",
        height=video.height,
        width=video.width,
        bit_depth=video.bit_depth,
        num_frames=video.num_frames,
        colour=video.colour,
        sample_aspect_ratio=video.sample_aspect_ratio,
        has_audio=video.scan.has_audio,
        video=video,
        has_alpha=video.has_alpha,
    )


def _open_frames(folder: pathlib.Path) -> Media:
    files = media_files(folder, IMAGE_EXTENSIONS)
    if not files:
        raise UserError(
            f"the folder {folder} holds no image ({' '.join(sorted(IMAGE_EXTENSIONS))})"
        )
    headers = checked_headers(folder, files)
    for file, header in zip(files, headers, strict=True):
        _check_size(file, header[:2], headers[0][:2])
    has_alpha = any(header.has_alpha for header in headers)
    media = dataclasses.replace(_open_stills(folder, "frames", files), has_alpha=has_alpha)
    if media.note:  # a scale of its own for each frame would flicker
        raise UserError(f"{files[0]}: {media.note}; convert the frames to 16 bits first")
    return dataclasses.replace(media, note=missing_note(files))


def _open_stills(
    path: pathlib.Path, kind: Literal["image", "frames"], files: Sequence[pathlib.Path]
) -> Media:
    first = read_image(files[0])
    return Media(
        path=path,
        kind=kind,
        height=first.rgb.shape[0],
        width=first.rgb.shape[1],
        bit_depth=8 * first.rgb.dtype.itemsize,
        num_frames=len(files),
        files=tuple(files) if kind == "frames" else (),
        icc_profile=first.icc_profile,
        has_alpha=first.alpha is not None,
        note=first.note,
    )


def _stills(media: Media) -> Iterator[Still]:
    for file in media.files or (media.path,):
        still = read_image(file)
        _check_size(file, still.rgb.shape[:2], (media.height, media.width))
        if still.rgb.dtype.itemsize * 8 != media.bit_depth:
            raise UserError(f"{file} has not the bit depth of the first frame; convert them alike")
        yield still


def _check_size(file: pathlib.Path, size: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if tuple(size) != wanted:
        raise UserError(
            f"{file} is {size[1]}x{size[0]} but the first frame is {wanted[1]}x{wanted[0]}: "
            "all frames of a clip must have one size (separate images: folder='files')"
        )
