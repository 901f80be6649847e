"""A look at every packet of a video without decoding: how many frames, when, and is it complete.

Reading the packets costs a pass over the file and saves the hours that a truncated one would waste.
Invariant: the result speaks of frames that are shown; packets that an edit list discards and VP8
frames that are never displayed are not counted.
"""

import bisect
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import av

from skipsr_jax.errors import UserError

_DEFAULT_RATE = Fraction(25)  # of a clip whose container states no rate
_LENGTH_TOLERANCE = Fraction(1, 2)  # seconds that a container's stated length may be off


@dataclasses.dataclass(frozen=True)
class VideoScan:
    """What the packets say: see `skipsr_jax.media.reader.Media` for rate and times.

    ticks: the frames' timestamps in display order, in units of ``time_base`` seconds; None where
      the container states none that can be trusted (AVI counts in coding order).
    """

    stream_index: int
    num_frames: int
    rate: Fraction
    ticks: tuple[int, ...] | None
    times: tuple[Fraction, ...] | None
    has_audio: bool
    time_base: Fraction

    @property
    def start(self) -> Fraction:
        """When the first frame is shown, in seconds of the container's clock."""
        return self.ticks[0] * self.time_base if self.ticks else Fraction(0)

    def frames_before(self, pts: int | None) -> int:
        """How many frames are shown before the one with timestamp ``pts``; 0 when unknown."""
        if self.ticks is None or pts is None:
            return 0
        return bisect.bisect_left(self.ticks, pts)


def scan_video(path: pathlib.Path) -> VideoScan:
    """Reads all packets of a video.

    Raises UserError when it is not a video, has no video stream or no frame, or ends early.
    """
    try:
        with av.open(str(path)) as container:
            index = _first_video(container, path)
            stream = container.streams.video[index]
            ticks, end = _read_packets(container, stream)
            _check_complete(container, stream, path, len(ticks), end)
            has_audio = len(container.streams.audio) > 0
            known = [tick for tick in ticks if tick is not None]
            stated = [stream.average_rate, stream.guessed_rate, stream.base_rate]
            ordered = "avi" not in container.format.name
            time_base = Fraction(stream.time_base or Fraction(1, av.time_base))
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be read as a video ({error.strerror}): it is truncated, damaged or "
            "no video at all"
        ) from error
    rates = [Fraction(rate) for rate in stated if rate] or [_DEFAULT_RATE]
    count = len(ticks)
    if not ordered or len(set(known)) < count:
        return VideoScan(index, count, rates[0], None, None, has_audio, time_base)
    known.sort()
    rate = _constant_rate(known, time_base, rates)
    if rate is not None:
        return VideoScan(index, count, rate, tuple(known), None, has_audio, time_base)
    times = tuple((tick - known[0]) * time_base for tick in known)
    return VideoScan(index, count, rates[0], tuple(known), times, has_audio, time_base)


def _first_video(container: av.container.InputContainer, path: pathlib.Path) -> int:
    for index, stream in enumerate(container.streams.video):
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return index
    raise UserError(f"{path} has no video stream")


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[int | None], Fraction]:
    """The timestamps of shown video packets, and the end of the last packet of all in seconds."""
    ticks: list[int | None] = []
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
        ticks.append(packet.pts)
    return ticks, end


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


def _constant_rate(
    ticks: Sequence[int], time_base: Fraction, rates: Sequence[Fraction]
) -> Fraction | None:
    """The stated rate that explains all timestamps to within their own rounding, if one does."""
    if len(ticks) == 1:
        return rates[-1]
    spacing = min(after - before for before, after in itertools.pairwise(ticks)) * time_base
    slack = min(time_base, spacing / 4)
    for rate in rates:
        if all(
            abs((tick - ticks[0]) * time_base - number / rate) <= slack
            for number, tick in enumerate(ticks)
        ):
            return rate
    return None
