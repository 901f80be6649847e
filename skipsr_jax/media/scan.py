"""Reads every packet of a video without decoding: how many frames, when, and is it complete.

Reading the packets costs a pass over the file and saves the hours that a truncated one would waste.
Invariant: the result speaks of frames that are shown; packets that an edit list discards and VP8
frames that are never displayed are not counted.
"""

import dataclasses
import io
import pathlib
from fractions import Fraction

import av
import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.media.timing import Timing, timing_of
from skipsr_jax.types import HostArray, Int

_LENGTH_TOLERANCE = Fraction(1, 2)  # seconds that a container's stated length may be off


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScan:
    """What the packets of a video say.

    Attributes:
      stream_index: of the video stream, counted among the video streams.
      num_frames: frames that are shown.
      timing: when they are shown.
      key_ticks: time stamps of the key frames in display order, where decoding can begin; empty
        where time stamps cannot be trusted, or differ after a seek.
      has_audio: whether the file has an audio stream.
    """

    stream_index: int
    num_frames: int
    timing: Timing
    key_ticks: Int[HostArray, " keys"]
    has_audio: bool


def open_container(path: pathlib.Path, data: bytes | None = None) -> av.container.InputContainer:
    """Opens the file at ``path``, or ``data`` as if it were that file. Raises av.FFmpegError."""
    return av.open(str(path) if data is None else io.BytesIO(data))


def scan_video(path: pathlib.Path, data: bytes | None = None) -> VideoScan:
    """Reads all packets of the video at ``path``, or of ``data``, the bytes of such a file.

    Raises UserError when it is not a video, has no video stream or no frame, or ends early.
    """
    try:
        with open_container(path, data) as container:
            index = video_stream_index(container, path)
            stream = container.streams.video[index]
            packets, end = _read_packets(container, stream)
            _check_complete(container, stream, path, len(packets), end)
            stated = [stream.average_rate, stream.guessed_rate, stream.base_rate]
            timing = timing_of(
                [tick for tick, _ in packets],
                Fraction(stream.time_base or Fraction(1, av.time_base)),
                [Fraction(rate) for rate in stated if rate],
                trusted="avi" not in container.format.name,
            )
            has_audio = len(container.streams.audio) > 0
            # MPEG program streams have no time stamp for each frame: after a seek libav guesses.
            can_seek = timing.ticks is not None and container.format.name != "mpeg"
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be read as a video ({error.strerror}): it is truncated, damaged or "
            "no video at all"
        ) from error
    keys = sorted(tick for tick, is_key in packets if is_key) if can_seek else []
    return VideoScan(index, len(packets), timing, np.array(keys, np.int64), has_audio)


def video_stream_index(container: av.container.InputContainer, path: pathlib.Path) -> int:
    """The video stream that is no cover picture, counted among the video streams.

    Raises UserError when there is none.
    """
    for index, stream in enumerate(container.streams.video):
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return index
    raise UserError(f"{path} has no video stream")


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[tuple[int | None, bool]], Fraction]:
    """(time stamp, whether it is a key frame) of each shown video packet, and the end of the last
    packet of all streams in seconds."""
    packets: list[tuple[int | None, bool]] = []
    end = Fraction(0)
    exact = "mov" in container.format.name
    vp8 = stream.codec_context.name == "vp8"
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))
        if packet.stream.index != stream.index or packet.is_discard:
            continue
        if exact and packet.is_corrupt:  # the file ends inside this packet
            continue
        if vp8 and not bytes(packet)[0] & 0x10:  # RFC 6386 section 9.1: show_frame
            continue
        packets.append((packet.pts, packet.is_keyframe))
    return packets, end


def _check_complete(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: pathlib.Path,
    found: int,
    end: Fraction,
) -> None:
    if found == 0:
        raise UserError(f"{path} holds no video frame")
    formats = container.format.name
    declared = stream.frames - sum(entry.is_discard for entry in stream.index_entries)
    if "mov" in formats and found < declared:
        raise UserError(f"{path} is truncated: it holds {found} of the {declared} frames it lists")
    if "avi" in formats and found + max(1, declared // 10) < declared:  # its counts are often off
        raise UserError(f"{path} is truncated: it holds {found} of the {declared} frames it states")
    if "matroska" in formats and container.duration is not None:
        stated = Fraction(container.duration, av.time_base)
        if end + _LENGTH_TOLERANCE < stated:
            raise UserError(
                f"{path} is truncated: it holds {float(end):.2f} of the {float(stated):.2f} "
                "seconds it states"
            )
