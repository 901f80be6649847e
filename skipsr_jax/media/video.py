"""Decoding of video files: any range of frames as RGB arrays, upright and in display order.

`open_video` reads every packet and decodes the first frame, so that a truncated file is refused
before any work is spent on it. `Video.frames` then decodes with constant memory, from the key frame
before the first frame that is wanted: a range of a long file costs no more than one of a short
file. It is the one decoder of the project: inference and training see the same pixels.

Invariants: all frames of a video yield exactly ``num_frames`` arrays (AVI may be one off: it counts
coded packets), and a range of an undamaged file yields the same arrays as all frames do.
"""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import (
    ColourTags,
    RgbFrame,
    bit_depth_of,
    tags_of,
    to_rgb,
)  # fmt: skip
from skipsr_jax.media.frame_filter import Crop, FrameFilter, with_margin
from skipsr_jax.media.orientation import DisplayTransform, display_transform_of
from skipsr_jax.media.scan import VideoScan, open_container, scan_video

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """A video file whose frames can be decoded. Sizes are as shown, after rotation.

    Attributes:
      path: the file; only its name in messages where ``data`` holds the bytes.
      data: the bytes of the file, or None where they are read from ``path``.
      height, width: of the frames, in pixels.
      bit_depth: of the components; frames are uint8 when it is 8, else uint16 (0..65535).
      codec: FFmpeg's name of the codec, such as "h264".
      colour: tags of the first frame; all frames are converted by them.
      sample_aspect_ratio: width over height of a pixel.
      transform: from coded pictures to shown ones.
      scan: what the packets say: how many frames there are and when they are shown.
    """

    path: pathlib.Path
    data: bytes | None
    height: int
    width: int
    bit_depth: int
    codec: str
    colour: ColourTags
    sample_aspect_ratio: Fraction
    transform: DisplayTransform
    scan: VideoScan

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.scan.num_frames

    @property
    def certain_frames(self) -> int:
        """Number of frames that an undamaged file is sure to have.

        One fewer than ``num_frames`` in AVI files, whose last packet may hold no frame.
        """
        return self.num_frames - (1 if self.scan.timing.ticks is None else 0)

    @property
    def coded_size(self) -> tuple[int, int]:
        """(height, width) of the coded pictures, before rotation."""
        size = self.height, self.width
        return size[::-1] if self.transform.swap_axes else size

    def frames(
        self, start: int = 0, stop: int | None = None, crop: Crop | None = None
    ) -> Iterator[RgbFrame]:
        """Yields frames ``start`` to ``stop - 1`` (by default all), each (height, width, 3).

        ``crop``, a rectangle in pixels as shown, yields these pixels of each frame alone, for less
        work: the conversion to RGB may cost more than the decoding.

        Decoding starts anew at every call. A frame that the decoder drops is replaced by its
        neighbour, with a warning in the log, so that all others keep their time.

        Raises:
          ValueError: the range or the crop does not lie within the video.
          UserError: the file turns out damaged, or a frame has another size.
        """
        last = self.num_frames if stop is None else stop
        if not 0 <= start <= last <= self.num_frames:
            raise ValueError(
                f"frames {start} to {last} of {self.path} are wanted; it has {self.num_frames}"
            )
        if crop is not None and not crop.within(self.height, self.width):
            raise ValueError(f"{crop} of {self.path} is wanted; it is {self.width}x{self.height}")
        return self._frames(start, stop, crop)

    def _frames(self, start: int, stop: int | None, crop: Crop | None) -> Iterator[RgbFrame]:
        index, repeated = start, 0
        convert = _Converter(self, crop)
        try:
            for number, frame, is_repeated in self._pictures(start, threads=stop is None):
                if stop is not None and number >= stop:
                    break
                index = number + 1
                if number >= start:
                    yield convert(frame)
                    repeated += is_repeated
        except av.FFmpegError as error:
            raise UserError(
                f"{self.path} is damaged: decoding stopped at frame {index} ({error.strerror})"
            ) from error
        if repeated:
            _LOG.warning(
                "%s: %d frames could not be decoded and repeat a neighbour", self.path, repeated
            )
        if index < (max(1, self.certain_frames) if stop is None else stop):
            raise UserError(
                f"{self.path} is damaged: only {index} of {self.num_frames} frames can be decoded"
            )

    def _pictures(self, start: int, threads: bool) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Yields (index, frame, whether it stands for one that is missing) from ``start`` or an
        earlier frame on. ``threads``: decode several frames at a time."""
        for tick in self._seek_points(start):
            with open_container(self.path, self.data) as container:
                stream = container.streams.video[self.scan.stream_index]
                if threads:
                    stream.thread_type = "AUTO"
                if tick is None:
                    yield from self._in_order(_decoded(container.demux(stream)), 0)
                    return
                packets = self._packets_from(container, stream, tick)
                key = next(packets, None)
                if key is not None:
                    frames = _decoded(itertools.chain([key], packets), key.pts)
                    yield from self._in_order(frames, self.scan.timing.frames_before(key.pts))
                    return

    def _packets_from(
        self, container: av.container.InputContainer, stream: av.VideoStream, tick: int
    ) -> Iterator[av.Packet]:
        """Yields packets from a key frame on that is shown at or before ``tick``; none where a
        search in the container leads to no such packet."""
        try:
            container.seek(tick, stream=stream)
        except av.FFmpegError:  # the container has no index, as GIF
            return
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe:
                if (
                    packet.pts is not None
                    and packet.pts <= tick
                    and packet.pts in self.scan.key_ticks
                ):
                    yield packet
                    yield from packets
                return

    def _seek_points(self, start: int) -> Iterator[int | None]:
        """Yields time stamps of key frames to begin at, the best first; None: the first packet.

        The best is the last key frame that is shown at or before frame ``start``. Where a container
        (MPEG-TS) finds no packet of it, earlier ones are tried in steps that double.
        """
        keys, ticks = self.scan.key_ticks, self.scan.timing.ticks
        if ticks is not None and 0 < start < len(ticks):
            key, step = int(np.searchsorted(keys, ticks[start], side="right")) - 1, 1
            while key > 0:
                yield int(keys[key])
                key, step = key - step, 2 * step
        yield None

    def _in_order(
        self, frames: Iterable[av.VideoFrame], first: int
    ) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Yields decoded frames with their index, from ``first`` on; fills in missing ones."""
        index, previous = first, None
        for frame in frames:
            missing = self.scan.timing.frames_before(frame.pts) - index
            for _ in range(missing):
                yield index, frame if previous is None else previous, True
                index += 1
            yield index, frame, False
            index, previous = index + 1, frame


def open_video(path: pathlib.Path, data: bytes | None = None) -> Video:
    """Describes the video at ``path``, or ``data``, the bytes of such a file.

    Raises UserError when it is not a video, has no video stream, is truncated, or its first frame
    cannot be decoded or has a colour matrix that cannot be converted.
    """
    scan = scan_video(path, data)
    try:
        with open_container(path, data) as container:
            stream = container.streams.video[scan.stream_index]
            frame = next(container.decode(stream))
            ratio = Fraction(stream.sample_aspect_ratio or 1)
            codec = stream.codec_context.codec.canonical_name
    except StopIteration:
        raise UserError(f"{path} holds no frame that can be decoded") from None
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded ({error.strerror})") from error
    transform = display_transform_of(frame)
    swap = transform.swap_axes
    return Video(
        path=path,
        data=data,
        height=frame.width if swap else frame.height,
        width=frame.height if swap else frame.width,
        bit_depth=bit_depth_of(frame.format),
        codec=codec,
        colour=tags_of(frame),
        sample_aspect_ratio=1 / ratio if swap else ratio,
        transform=transform,
        scan=scan,
    )


def _decoded(packets: Iterable[av.Packet], first: int | None = None) -> Iterator[av.VideoFrame]:
    """Yields the frames of the packets; those shown before time stamp ``first`` are left out,
    because they need packets before these (open groups of pictures)."""
    for packet in packets:
        for frame in packet.decode():
            if first is None or frame.pts is None or frame.pts >= first:
                yield frame


class _Converter:
    """Converts decoded frames of a video, or a crop of them, to RGB; one that comes twice, once."""

    def __init__(self, video: Video, crop: Crop | None):
        self._video = video
        self._crop, around = None, None
        if crop is not None:
            coded = video.transform.coded(crop, (video.height, video.width))
            around, self._crop = with_margin(coded, video.coded_size)
        self._filter = FrameFilter(video.codec, around)
        self._reformatter = VideoReformatter()
        self._last: tuple[av.VideoFrame, RgbFrame] | None = None

    def __call__(self, frame: av.VideoFrame) -> RgbFrame:
        """Raises UserError when the frame has not the size of the first."""
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._converted(frame)
        return self._last[1]

    def _converted(self, frame: av.VideoFrame) -> RgbFrame:
        video = self._video
        height, width = video.coded_size
        if (frame.height, frame.width) != (height, width):
            raise UserError(
                f"{video.path} has a frame of {frame.width}x{frame.height}, but the first is "
                f"{width}x{height}: all frames of a clip must have one size"
            )
        rgb = to_rgb(self._filter(frame), video.colour, self._reformatter)
        if self._crop is not None:
            top, left, height, width = self._crop
            rgb = rgb[top : top + height, left : left + width]
        return video.transform.apply(rgb)
