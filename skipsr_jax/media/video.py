"""Decoding of video files: any range of frames as RGB arrays, upright and in display order.

`open_video` reads every packet and decodes the first frame, so that a truncated file is refused
before any work is spent on it. `Video.frames` then decodes with constant memory, from the key frame
before the first frame that is wanted: a range of a long file costs no more than one of a short
file. It is the one decoder of the project: inference and training see the same pixels.

Invariants: all frames of an undamaged video yield exactly ``num_frames`` arrays, and a range yields
the same arrays as all frames do. What a damaged file still holds is yielded, and the log says how
much that is.
"""

import collections
import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from skipsr_jax.errors import UserError, plural
from skipsr_jax.media import lost_frames
from skipsr_jax.media.alpha import alpha_of, format_has_alpha, is_opaque
from skipsr_jax.media.colour import (
    ColourTags,
    RgbFrame,
    bit_depth_of,
    tags_of,
)
from skipsr_jax.media.deinterlace import (
    REACH,
    Mode,
    Picture,
    deinterlaced,
    field_order_of,
    has_single_fields,
)
from skipsr_jax.media.frame_converter import AlphaConverter, FrameConverter
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.hdr import NO_HDR, Hdr, hdr_of
from skipsr_jax.media.orientation import DisplayTransform, display_transform_of
from skipsr_jax.media.scan import (
    Truncated,
    VideoScan,
    alpha_decoder,
    decoded,
    open_container,
    packets_of,
    scan_video,
)
from skipsr_jax.media.timing import Timing
from skipsr_jax.types import HostArray

_LOG = logging.getLogger(__name__)
_REORDERED = 4  # frames that may come after one that is shown later by its time stamp


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
      scan: what the packets say: how many coded frames there are and when they are shown.
      field_order: how the fields of an interlaced video are ordered (`field_order_of`); "": it is
        progressive.
      deinterlace: what is done to interlaced frames.
      single_fields: whether each picture is one field, which nothing is done to.
      has_alpha: whether pixels may be transparent, by the format; of a GIF, by its first frame.
      hdr: metadata of its dynamic range.
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
    field_order: str = ""
    deinterlace: Mode = "auto"
    single_fields: bool = False
    has_alpha: bool = False
    hdr: Hdr = NO_HDR

    @property
    def num_frames(self) -> int:
        """Number of frames, or of fields where each becomes a frame."""
        return self.scan.num_frames * self._frames_of_a_coded_one

    @property
    def timing(self) -> Timing:
        """When the frames are shown."""
        timing = self.scan.timing
        return timing if self._frames_of_a_coded_one == 1 else timing.of_fields()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it is read, a line each."""
        notes = self.hdr.notes(self.colour.transfer)
        if self.scan.early_end:
            notes = (*notes, f"the file ends early: {self.scan.early_end}")
        if damage := lost_frames.line(self.scan.gaps, self.scan.short, self.scan.timing):
            notes = (*notes, damage)
        if self.single_fields:
            note = "its pictures are single fields (HEVC), and are upscaled as they are; join them "
            notes = (*notes, note + "to frames first, as with ffmpeg's filter weave")
        if not self.field_order:
            return notes
        done = {
            "auto": "deinterlaced (bwdif) to one frame for each pair of fields; "
            "--config.input.deinterlace=field makes one of each field, =off leaves them",
            "field": "deinterlaced (bwdif) to one frame for each field",
            "off": "upscaled and written as progressive frames, fields and all, because of "
            "--config.input.deinterlace=off",
        }
        return (*notes, f"interlaced: {done[self.deinterlace]}")

    @property
    def _frames_of_a_coded_one(self) -> int:
        return 2 if self.field_order and self.deinterlace == "field" else 1

    @property
    def coded_size(self) -> tuple[int, int]:
        """(height, width) of the coded pictures, before rotation."""
        size = self.height, self.width
        return size[::-1] if self.transform.swap_axes else size

    def frames(
        self,
        start: int = 0,
        stop: int | None = None,
        crop: Crop | None = None,
        keep_alpha: bool = False,
    ) -> Iterator[RgbFrame]:
        """Yields frames ``start`` to ``stop - 1`` (by default all), each (height, width, 3).

        Where pixels are transparent they are laid on black; with ``keep_alpha`` their colours are
        yielded as they are, beside those of `alphas`.

        ``crop``, a rectangle in pixels as shown, yields these pixels of each frame alone, for less
        work: the conversion to RGB may cost more than the decoding.

        Decoding starts anew at every call. A frame that the decoder drops is replaced by its
        neighbour, with a warning in the log, so that all others keep their time. Where fewer frames
        can be decoded than there should be, or more, a warning says so; a range is then refused.

        Raises:
          ValueError: the range or the crop does not lie within the video.
          UserError: no frame, or not all of a range, can be decoded.
        """
        last = self.num_frames if stop is None else stop
        if not 0 <= start <= last <= self.num_frames:
            raise ValueError(
                f"frames {start} to {last} of {self.path} are wanted; it has {self.num_frames}"
            )
        if crop is not None and not crop.within(self.height, self.width):
            raise ValueError(f"{crop} of {self.path} is wanted; it is {self.width}x{self.height}")
        return self._frames(start, stop, FrameConverter(self, crop, keep_alpha))

    def alphas(self, start: int = 0) -> Iterator[HostArray]:
        """Yields the alpha (height, width) of each frame from ``start`` on, typed as the frames."""
        return self._frames(start, None, AlphaConverter(self))

    def _frames(
        self, start: int, stop: int | None, convert: "FrameConverter | AlphaConverter"
    ) -> Iterator[HostArray]:
        index, repeated, damaged, stopped = start, 0, 0, ""
        try:
            for number, frame, is_repeated in self._progressive(start, threads=stop is None):
                if stop is not None and number >= stop:
                    break
                index = number + 1
                if number >= start:
                    yield convert(frame)
                    repeated += is_repeated
                    damaged += frame.is_corrupt and not is_repeated
        except av.FFmpegError as error:
            stopped = f" ({error.strerror})"
        if repeated:
            _LOG.warning(
                "%s: %s could not be decoded: a neighbour is repeated",
                self.path, plural(repeated, "frame"),
            )  # fmt: skip
        if damaged:
            _LOG.warning(
                "%s: %s %s damaged, and shown as mended by the decoder",
                self.path, plural(damaged, "frame"), "is" if damaged == 1 else "are",
            )  # fmt: skip
        if index < stop if stop is not None else index == start:
            raise UserError(
                f"{self.path} is damaged: only {index} of {self.num_frames} frames can be decoded"
                f"{stopped}"
            )
        if stop is None and index != self.num_frames:
            _LOG.warning(
                "%s: %s %s decoded where %d were expected%s; the result has those decoded",
                self.path, plural(index - start, "frame"), "was" if index - start == 1 else "were",
                self.num_frames - start, stopped,
            )  # fmt: skip

    def _progressive(self, start: int, threads: bool) -> Iterator[Picture]:
        """Yields (index, frame, whether it stands for one that is missing) from ``start`` or an
        earlier frame on, deinterlaced."""
        coded = start // self._frames_of_a_coded_one
        pictures = self._pictures(max(0, coded - REACH), threads)
        mode = "off" if self.single_fields else self.deinterlace
        return deinterlaced(pictures, mode, self.field_order, str(self.path))

    def _pictures(self, start: int, threads: bool) -> Iterator[Picture]:
        """Yields coded frames from ``start`` or an earlier one on. ``threads``: decode several at a
        time."""
        for tick in self._seek_points(start):
            with open_container(self.path, self.data) as container:
                stream = container.streams.video[self.scan.stream_index]
                if threads:
                    stream.thread_type = "AUTO"
                decoder = alpha_decoder(stream)
                if tick is None:
                    packets = packets_of(container, stream, self.scan.is_bridged)
                    yield from self._in_order(_displayed(packets, self.scan, None, decoder), 0)
                    return
                packets = self._packets_from(container, stream, tick)
                key = next(packets, None)
                if key is not None:
                    packets = itertools.chain([key], packets)
                    frames = _displayed(packets, self.scan, key.pts, decoder)
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
        if 0 < start < len(ticks):
            key, step = int(np.searchsorted(keys, ticks[start], side="right")) - 1, 1
            while key > 0:
                yield int(keys[key])
                key, step = key - step, 2 * step
        yield None

    def _in_order(self, frames: Iterable[av.VideoFrame], first: int) -> Iterator[Picture]:
        """Yields decoded frames with their index, from ``first`` on; fills in missing ones.

        A frame is missing if one behind it comes, and it is not among the next ones either: where a
        time stamp is wrong, decoders give frames in another order than that of the stamps.
        """
        ticks, coming = self.scan.timing.ticks, _Coming(frames)
        index, passed, late, previous = first, first, set(), None
        for frame in coming:
            missing = 0
            if not self.scan.is_counted and frame.pts not in late:
                at = self.scan.timing.frames_before(frame.pts)
                if at > max(index, passed):
                    absent = set(ticks[passed:at].tolist())
                    late |= absent & {each.pts for each in coming.next_ones(_REORDERED)}
                    missing = min(at - index, len(absent - late))
                passed = max(passed, at + 1)
            late.discard(frame.pts)
            for _ in range(missing):
                yield index, frame if previous is None else previous, True
                index += 1
            yield index, frame, False
            index, previous = index + 1, frame


def open_video(
    path: pathlib.Path,
    data: bytes | None = None,
    deinterlace: Mode = "auto",
    truncated: Truncated = "refuse",
) -> Video:
    """Describes the video at ``path``, or ``data``, the bytes of such a file.

    ``deinterlace``: what is done to its frames if they are interlaced. ``truncated``: what is done
    with a file that ends early.

    Raises UserError when it is not a video, has no video stream, is truncated, or its first frame
    cannot be decoded or has a colour matrix that cannot be converted.
    """
    scan = scan_video(path, data, truncated)
    try:
        with open_container(path, data) as container:
            stream = container.streams.video[scan.stream_index]
            packets = packets_of(container, stream, scan.is_bridged)
            frame = next(decoded(packets, alpha_decoder(stream)))
            ratio = Fraction(stream.sample_aspect_ratio or 1)
            codec = stream.codec_context.codec.canonical_name
            field_order = field_order_of(stream, frame)
            single_fields = has_single_fields(stream, frame)
    except StopIteration:
        raise UserError(f"{path} holds no frame that can be decoded") from None
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded ({error.strerror})") from error
    if not scan.is_counted:  # packets before the first key frame can never be shown
        scan = scan.without(scan.timing.frames_before(frame.pts))
    has_alpha = format_has_alpha(frame.format)
    if codec == "gif":  # which is always decoded with alpha
        has_alpha = not is_opaque(alpha_of(frame, VideoReformatter()))
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
        field_order=field_order,
        deinterlace=deinterlace,
        single_fields=single_fields,
        has_alpha=has_alpha,
        hdr=hdr_of(frame),
    )


def _displayed(
    packets: Iterable[av.Packet],
    scan: VideoScan,
    first: int | None,
    decoder: av.VideoCodecContext | None,
) -> Iterator[av.VideoFrame]:
    """Yields the frames of the packets from time stamp ``first`` on, by default from that of the
    first frame of the video: those before need packets before these."""
    if first is None and not scan.is_counted:
        first = int(scan.timing.ticks[0])
    for frame in decoded(packets, decoder):
        if first is None or frame.pts is None or frame.pts >= first:
            yield frame


class _Coming:
    """Frames one by one, with a look at the next ones where that is wanted."""

    def __init__(self, frames: Iterable[av.VideoFrame]):
        self._frames = iter(frames)
        self._next_ones: collections.deque[av.VideoFrame] = collections.deque()
        self._error: av.FFmpegError | None = None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        while self.next_ones(1):
            yield self._next_ones.popleft()
        if self._error is not None:
            raise self._error

    def next_ones(self, count: int) -> list[av.VideoFrame]:
        """The next frames, at most ``count``: fewer at the end, and before an error."""
        try:
            while len(self._next_ones) < count and self._error is None:
                self._next_ones.append(next(self._frames))
        except StopIteration:
            pass
        except av.FFmpegError as error:
            self._error = error
        return list(itertools.islice(self._next_ones, count))
