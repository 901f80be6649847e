"""Reads every packet of a video without decoding: how many frames, when, and is it complete.

Reading the packets costs a pass over the file and saves the hours that a truncated one would waste.
Where packets do not tell how many frames there are (fields in packets of their own, AVI files
with B-frames, packets without time stamps) the frames are decoded and counted.

Invariant: the result speaks of frames that are shown; packets that an edit list discards and VP8
frames that are never displayed are not counted.
"""

import contextlib
import dataclasses
import io
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

import av
import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.media import lost_frames
from skipsr_jax.media.discontinuity import Bridge
from skipsr_jax.media.early_end import early_end
from skipsr_jax.media.timing import Timing, timing_of
from skipsr_jax.types import HostArray, Int

Truncated = Literal["refuse", "keep"]
"""What is done with a file that ends early: it is refused, or what can be read of it is kept."""
TRUNCATED = ("refuse", "keep")

_LENGTH_TOLERANCE = Fraction(1, 2)  # seconds that a container's stated length may be off
# PyAV reads tags so by itself from version 19 on.
_TAGS = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
_STATE_LENGTH = ("matroska", "flv")  # formats that state the length of the whole
_DEMUXERS = (
    "mov,matroska,avi,mpegts,mpegtsraw,mpeg,mpegvideo,asf,flv,gif,yuv4mpegpipe,mxf,"
    "ogg,nut,ivf,rm,wtv,dv,nuv,swf,mjpeg,h264,hevc,m4v,obu,"  # under other names
    "srt,ass"  # subtitles within AVI
)
"""FFmpeg's readers of files that hold what they show. Those that are left out open what a file
names: other files, devices or hosts (concat, hls, dash, sdp, image2, lavfi, ...)."""
_LIST_HEADS = (b"ffconcat version", b"file ", b"#EXTM3U", b"v=0")
_HEAD_BYTES = 1024  # in which the kind of a list shows
_TRIED_PACKETS = 64  # that are decoded to see whether they hold fields or frames
_PROGRESSIVE = 1  # AVFieldOrder; 0: not stated
_ONE_FRAME_A_PACKET = frozenset(
    {"mjpeg", "rawvideo", "huffyuv", "ffvhuff", "ffv1", "utvideo", "dvvideo", "png", "prores"}
)
"""Codecs of AVI files whose packets are never held back, merged or empty."""


class _NoFrameError(UserError):
    """A file has no video frame, which may be because it ends early."""


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    is_key: bool


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScan:
    """What the packets of a video say.

    Attributes:
      stream_index: of the video stream, counted among the video streams.
      timing: when the frames are shown.
      key_ticks: time stamps of the key frames in display order, where decoding can begin; empty
        where time stamps cannot be trusted, or differ after a seek.
      has_audio: whether the file has an audio stream.
      is_bridged: whether time stamps jump, so that ``packets_of`` has to move them.
      is_counted: whether frames were counted by decoding: the n-th that is decoded is the n-th.
      early_end: how it is seen that the file ends early; "": it does not.
      gaps: frames that damage of the container took from between others.
      short: how much less the file holds than it states because of such damage; "": nothing.
    """

    stream_index: int
    timing: Timing
    key_ticks: Int[HostArray, " keys"]
    has_audio: bool
    is_bridged: bool = False
    is_counted: bool = False
    early_end: str = ""
    gaps: tuple[lost_frames.Gap, ...] = ()
    short: str = ""

    @property
    def num_frames(self) -> int:
        """Number of frames that are shown."""
        return len(self.timing.ticks)

    def without(self, count: int) -> "VideoScan":
        """The scan without the first ``count`` frames, which no decoder can show."""
        timing = self.timing.without(count)
        keys = self.key_ticks[self.key_ticks >= timing.ticks[0]]
        return dataclasses.replace(self, timing=timing, key_ticks=keys)


def open_container(path: pathlib.Path, data: bytes | None = None) -> av.container.InputContainer:
    """Opens the file at ``path``, or ``data`` as if it were that file.

    Raises av.FFmpegError, and UserError for a file that names others instead of holding a video.
    """
    # "file:" keeps a colon in a name from being taken for a protocol. Tags may be in any encoding.
    file = f"file:{path}" if data is None else io.BytesIO(data)
    try:
        return av.open(file, options={"format_whitelist": _DEMUXERS}, **_TAGS)
    except av.FFmpegError as error:
        if _is_list(path, data):
            line = (
                "is a list of other files or addresses (a playlist), which is not read: name the "
            )
            raise UserError(f"{path} {line}video itself") from error
        if "whitelist" not in str(error):
            raise
        raise UserError(
            f"{path} is no video, whatever its name says: it is no file of a known kind"
        ) from error


def _is_list(path: pathlib.Path, data: bytes | None) -> bool:
    """Whether a file begins as those do that name other files: ffconcat, HLS, SDP or DASH."""
    if data is None:
        try:
            with path.open("rb") as file:
                data = file.read(_HEAD_BYTES)
        except OSError:  # FFmpeg has said why
            return False
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(_LIST_HEADS) or b"<MPD" in head


def packets_of(
    container: av.container.InputContainer, stream: av.VideoStream, is_bridged: bool
) -> Iterator[av.Packet]:
    """Yields the packets of a stream; with ``is_bridged`` without the jumps of its time stamps."""
    if not is_bridged:
        yield from container.demux(stream)
        return
    bridge = Bridge(container)
    for packet in container.demux():
        bridge(packet)
        if packet.stream.index == stream.index:
            yield packet


def scan_video(
    path: pathlib.Path, data: bytes | None = None, truncated: Truncated = "refuse"
) -> VideoScan:
    """Reads all packets of the video at ``path``, or of ``data``, the bytes of such a file.

    Raises UserError when it is not a video, has no video stream or no frame, when nothing can
    decode it, and, unless ``truncated`` is "keep", when it ends early.
    """
    try:
        with open_container(path, data) as container:
            index = video_stream_index(container, path)
            stream = container.streams.video[index]
            packets, end, video_end, jumps = _read_packets(container, stream)
            if not packets:
                raise _NoFrameError(f"{path} holds no video frame")
            cut = _early_end(container, stream, path, data, packets, end)
            if cut and truncated == "refuse":
                raise UserError(
                    f"{path} is truncated: {cut}; infer.py takes what is there with "
                    "--config.input.truncated=keep"
                )
            has_audio = len(container.streams.audio) > 0
            # MPEG program streams have no time stamp for each frame: after a seek libav guesses.
            can_seek = not jumps and container.format.name not in ("mpeg", "avi")
            displayed = sorted(packets, key=lambda packet: packet.pts or 0)
            timing = _timing(stream, [packet.pts for packet in displayed], displayed[-1].duration)
            program_id = stream.id
            is_matroska, short = container.format.name.startswith("matroska"), ""
            if is_matroska and not (cut or jumps):
                tag = stream.metadata.get("DURATION", "")
                short = lost_frames.shortfall(_length(container), tag, timing.rate, video_end, end)
            doubtful = bool(timing.repaired or jumps) or _is_doubtful(container, stream, packets)
        if doubtful:
            timing = _timing_by_decoding(path, data, index, packets, jumps > 0)
        # A clock that jumps, as in joined recordings, says nothing of what is missing.
        gaps = () if jumps else lost_frames.gaps_of(timing)
        breaks: list[lost_frames.Break] = []
        if is_matroska and (gaps or short):
            breaks = lost_frames.broken_elements(path, data)
        elif gaps and container.format.name == "mpegts":
            breaks = lost_frames.broken_continuity(path, data, program_id, timing)
    except (av.FFmpegError, _NoFrameError) as error:
        with contextlib.suppress(OSError):
            if cut := early_end(path, data):
                raise UserError(
                    f"{path} is truncated: {cut}; no frame can be shown of what is there: copy or "
                    "download it again"
                ) from error
        if isinstance(error, _NoFrameError):
            raise
        raise UserError(
            f"{path} cannot be read as a video ({error.strerror}): it is truncated, damaged or "
            "no video at all"
        ) from error
    known = can_seek and not doubtful
    keys = sorted(packet.pts or 0 for packet in packets if packet.is_key and known)
    ticks = np.array(keys, np.int64)
    return VideoScan(
        index, timing, ticks, has_audio, jumps > 0, doubtful, cut,
        gaps=lost_frames.lost(gaps, breaks, timing),
        short=short if breaks else "",
    )  # fmt: skip


def video_stream_index(container: av.container.InputContainer, path: pathlib.Path) -> int:
    """The video stream that is no cover picture, counted among the video streams.

    Raises UserError when there is none, or no decoder for it.
    """
    for index, stream in enumerate(container.streams.video):
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise _NoFrameError(f"{path} has video in a codec that FFmpeg does not know")
            return index
    raise _NoFrameError(f"{path} has no video stream")


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[_Packet], Fraction, Fraction, int]:
    """Each shown video packet, the end of the last packet of all streams and of the video in
    seconds of the file's clock, and how many jumps of that clock there are."""
    packets: list[_Packet] = []
    end, video_end, bridge = Fraction(0), Fraction(0), Bridge(container)
    exact = "mov" in container.format.name
    vp8 = stream.codec_context.name == "vp8"
    for packet in container.demux():
        if packet.size == 0:
            continue
        bridge(packet)
        if packet.pts is not None and packet.time_base is not None:
            packet_end = (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)
            end = max(end, packet_end)
            if packet.stream.index == stream.index:
                video_end = max(video_end, packet_end)
        if packet.stream.index != stream.index or packet.is_discard:
            continue
        if exact and packet.is_corrupt:  # the file ends inside this packet
            continue
        if vp8 and not bytes(packet)[0] & 0x10:  # RFC 6386 section 9.1: show_frame
            continue
        packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
    return packets, end, video_end, bridge.jumps


def _is_doubtful(
    container: av.container.InputContainer, stream: av.VideoStream, packets: list[_Packet]
) -> bool:
    """Whether packets may hold less or more than a frame each, or do not say when it is shown."""
    if any(packet.pts is None for packet in packets):
        return True
    codec = stream.codec_context.codec.canonical_name
    if "avi" in container.format.name:
        return codec not in _ONE_FRAME_A_PACKET
    if codec != "h264" or stream.codec_context.field_order == _PROGRESSIVE:
        return False
    # The two fields of a picture may lie in a packet each (PAFF), in one file here and not there.
    ticks = sorted(packet.pts or 0 for packet in packets)
    steps = [after - before for before, after in itertools.pairwise(ticks)] or [1]
    mixed = stream.codec_context.field_order > 0 and 4 * min(steps) < 3 * max(steps)
    return mixed or _holds_fields(container, stream)


def _holds_fields(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the first packets make fewer frames than there are packets."""
    container.seek(0)
    packets = itertools.islice((p for p in container.demux(stream) if p.size), _TRIED_PACKETS)
    tried = list(packets)
    frames = sum(1 for _ in decoded(tried))
    with contextlib.suppress(av.FFmpegError):
        frames += len(stream.codec_context.decode(None))
    return 4 * frames < 3 * len(tried)


def _timing(
    stream: av.VideoStream, ticks: list[int | None], last_duration: int, counted: bool = False
) -> Timing:
    stated = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    rates = [Fraction(rate) for rate in stated if rate]
    if counted:  # the container may have counted fields
        rates += [rate / 2 for rate in rates]
    time_base = Fraction(stream.time_base or Fraction(1, av.time_base))
    return timing_of(ticks, time_base, rates, last_duration)


def _timing_by_decoding(
    path: pathlib.Path, data: bytes | None, index: int, packets: list[_Packet], is_bridged: bool
) -> Timing:
    """The timing of the frames that the decoder gives, counted in a pass that makes no pixels."""
    with open_container(path, data) as container:
        stream = container.streams.video[index]
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"skip_loop_filter": "all", "skip_idct": "all"}
        ticks: list[int | None] = []
        last = 0
        for frame in decoded(packets_of(container, stream, is_bridged)):
            ticks.append(frame.pts)
            last = frame.duration or 0
        if not ticks:
            raise _NoFrameError(f"{path} holds no frame that can be decoded")
        if "avi" not in container.format.name:
            return _timing(stream, ticks, last, counted=True)
        # AVI counts pictures in coding order; the n-th to be shown takes the n-th slot. An empty
        # slot repeats the picture before it.
        slots = sorted(packet.dts for packet in packets if packet.dts is not None)
        if len(slots) == len(ticks):
            ticks = list(slots)
        known = [tick for tick in ticks if tick is not None]
        return _timing(stream, ticks, max(stream.frames - max(known, default=0), 1))


def decoded(
    packets: Iterable[av.Packet], decoder: av.VideoCodecContext | None = None
) -> Iterator[av.VideoFrame]:
    """Yields the frames of the packets, without those that are damaged beyond decoding.

    ``decoder``: another one than that of the packets' stream.
    """
    for packet in packets:
        if not packet.size and packet.pts is not None:
            continue  # Theora and AVI say so that the picture before stays
        try:
            yield from decoder.decode(packet) if decoder else packet.decode()
        except av.error.InvalidDataError:
            continue


def alpha_decoder(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """The decoder that a stream needs because FFmpeg's own passes over its alpha (VP8, VP9)."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return None
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = stream.codec_context.extradata
    decoder.color_primaries = stream.codec_context.color_primaries  # of the container
    decoder.color_trc = stream.codec_context.color_trc
    return decoder


def _length(container: av.container.InputContainer) -> Fraction | None:
    """Seconds that a container states for all its streams together; None for none."""
    return None if container.duration is None else Fraction(container.duration, av.time_base)


def _early_end(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: pathlib.Path,
    data: bytes | None,
    packets: list[_Packet],
    end: Fraction,
) -> str:
    """How it is seen that the file ends before it should, in words; "" for a whole one."""
    name, found = container.format.name, len(packets)
    declared = stream.frames - sum(entry.is_discard for entry in stream.index_entries)
    if "mov" in name and found < declared:
        return f"it holds {found} of the {declared} frames it lists"
    stated = _length(container) if name.startswith(_STATE_LENGTH) else None
    if stated is not None and end + _LENGTH_TOLERANCE < stated:
        return f"it holds {float(end):.2f} of the {float(stated):.2f} seconds it states"
    return early_end(path, data, name)
