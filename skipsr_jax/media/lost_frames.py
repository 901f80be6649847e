"""Frames that a damaged file has lost: where its times have a hole, and how much it states.

A hole in the times is no sign of damage by itself: recorders leave out pictures that do not change.
It is one where the container is broken at that place: MPEG-TS counts its packets, and the elements
of Matroska and WebM follow each other without a gap. Both are walked, without reading what they
hold, only where something seems to be missing.
Invariant: nothing is said of a file whose container is not broken.
"""

import io
import pathlib
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from skipsr_jax.errors import plural
from skipsr_jax.media.byte_layout import EBML_HEADER, SEGMENT, TS_HEAD, TS_SYNC, element, ts_packets
from skipsr_jax.media.timing import Timing

_NEARBY = 8  # frames between a loss and the times around it: coded order is not display order
_SHORT = 1  # frames by which a stated length may be off
_EXACT = 0.05  # part of a frame by which steps of a constant rate may be off, beside rounding
_ROUNDING = 1.5  # ticks
_LENGTH = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", re.ASCII)
_CLUSTER, _TIMESTAMP = b"\x1f\x43\xb6\x75", b"\xe7"
_ELEMENTS = {
    EBML_HEADER, SEGMENT, _CLUSTER, _TIMESTAMP,
    b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b",  # SeekHead, Info, Tracks
    b"\x1c\x53\xbb\x6b", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70",  # Cues, Attachments, Chapters
    b"\x12\x54\xc3\x67", b"\xec", b"\xbf",  # Tags, Void, CRC-32
    b"\x58\x54", b"\xa7", b"\xab", b"\xa3", b"\xa0", b"\xaf",  # SilentTracks to EncryptedBlock
}  # fmt: skip
"""Identifiers of what a file, a segment and a cluster hold (RFC 9559, section 5.1)."""
_PACKETS = 1 << 14  # that are read at a time
_CHUNK = 1 << 20  # bytes that are searched at a time for the next cluster


class Gap(NamedTuple):
    """Frames that are missing one after the other.

    Attributes:
      tick: the time stamp that the first of them would have.
      count: how many they are.
    """

    tick: int
    count: int


class Break(NamedTuple):
    """A place at which a container is broken, by the time stamps of what lies around it.

    Attributes:
      first, last: ticks between which frames may be missing; ``last`` is None up to the end.
    """

    first: int
    last: int | None


def line(gaps: Sequence[Gap], short: str, timing: Timing) -> str:
    """What a user should know of lost frames; "" for nothing.

    ``short``: the result of `shortfall`, if the container is broken. Times are seconds after the
    first frame of ``timing``.
    """
    parts = [short] if short else []
    gaps = [gap for gap in gaps if gap.tick > timing.ticks[0]]
    if gaps:
        at = f"{float((gaps[0].tick - int(timing.ticks[0])) * timing.time_base):.2f} s"
        lost = plural(sum(gap.count for gap in gaps), "frame")
        parts.append(
            f"has a gap of {lost} at {at}"
            if len(gaps) == 1
            else f"has {len(gaps)} gaps of {lost} together, the first at {at}"
        )
    return f"the file is damaged: it {' and '.join(parts)}" if parts else ""


def gaps_of(timing: Timing) -> tuple[Gap, ...]:
    """The gaps in times that have a constant rate but for them; none of a variable rate."""
    steps = np.diff(timing.ticks)
    if timing.is_constant or timing.repaired or not len(steps):
        return ()
    unit = float(1 / (timing.rate * timing.time_base))
    if abs(steps.min() - unit) > _EXACT * unit + _ROUNDING:  # the stated rate is an average
        usual = steps[steps < 1.5 * np.median(steps)]
        unit = float(usual.mean())
    counts = np.round(steps / unit).astype(np.int64)
    off = np.abs(steps - counts * unit)
    if counts.min() != 1 or (off > _EXACT * unit + _ROUNDING).any():
        return ()
    return tuple(
        Gap(round(int(timing.ticks[index]) + unit), int(counts[index]) - 1)
        for index in np.flatnonzero(counts > 1)
    )


def lost(gaps: Sequence[Gap], breaks: Sequence[Break], timing: Timing) -> tuple[Gap, ...]:
    """Those of the gaps at which the container is broken."""
    unit = float(1 / (timing.rate * timing.time_base))
    return tuple(
        gap
        for gap in gaps
        if any(
            each.first <= gap.tick + gap.count * unit
            and (each.last is None or gap.tick <= each.last + unit)
            for each in breaks
        )
    )


def shortfall(
    whole: Fraction | None, tag: str, rate: Fraction, end: Fraction, all_end: Fraction
) -> str:
    """How much of its stated length a Matroska file has; "" where it has all, or states none.

    What the tags state of the video is compared with the video. Where the file alone states a
    length, it is compared with the longest stream.

    Args:
      whole: seconds that the file states for all its streams; None for none.
      tag: the tag of the video that states its length, such as "00:00:00.480000000"; "" for none.
      rate: frames per second.
      end: when the last video packet that was read ends, in seconds of the file's clock.
      all_end: the same of the packets of all streams.
    """
    if whole is None:
        return ""
    tolerance = _SHORT / rate
    match = _LENGTH.fullmatch(tag)
    hours, minutes, seconds = map(Fraction, match.groups()) if match else (0, 0, 0)
    stated = 3600 * hours + 60 * minutes + seconds
    if not match or stated > whole + tolerance:  # a tag of another file, copied along
        stated, end = whole, all_end
    if end + tolerance >= stated:
        return ""
    return f"holds {float(end):.2f} s of the {float(stated):.2f} s that it states"


def broken_continuity(
    path: pathlib.Path, data: bytes | None, program_id: int, timing: Timing
) -> list[Break]:
    """Where packets of one stream of a file of MPEG-TS are missing or damaged, by their counters.

    Args:
      path: the file.
      data: its bytes, where they are in memory; ``path`` is then only its name.
      program_id: the identifier that the packets of the stream have (ISO/IEC 13818-1, 2.4.3.3).
      timing: of the stream.

    Raises OSError where the file cannot be read.
    """
    breaks: list[Break] = []
    reach = round(_NEARBY / (timing.rate * timing.time_base))
    with path.open("rb") if data is None else io.BytesIO(data) as file:
        if (found := ts_packets(file.read(TS_HEAD))) is None:
            return []
        size, lead = found
        file.seek(0)
        counter, tick, is_open = None, int(timing.ticks[0]), False
        while chunk := file.read(size * _PACKETS):
            count = len(chunk) // size
            packets = np.frombuffer(chunk, np.uint8, count * size).reshape(count, size)
            packets = packets[:, lead:].astype(np.int64)
            wrong = (packets[:, 0] != TS_SYNC) | (packets[:, 1] & 0x80 > 0)
            ours = (packets[:, 1] & 0x1F) << 8 | packets[:, 2]
            chosen = wrong | (ours == program_id) & (packets[:, 3] & 0x10 > 0)
            packets, wrong = packets[chosen], wrong[chosen]
            counters = packets[:, 3] & 0xF
            before = np.concatenate([counters[:1] - 1 if counter is None else [counter], counters])
            allowed = (packets[:, 3] & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)
            wrong |= ((counters - before[:-1]) % 16 > 1) & ~allowed  # the same one: sent twice
            for index in np.flatnonzero(wrong | (packets[:, 1] & 0x40 > 0)):
                is_open |= bool(wrong[index])
                stamp = _time_stamp(packets[index].tolist())
                if stamp is not None:
                    if is_open:
                        breaks.append(Break(min(tick, stamp) - reach, max(tick, stamp) + reach))
                    tick, is_open = stamp, False
            counter = int(before[-1]) if len(packets) else counter
    return [*breaks, Break(tick - reach, None)] if is_open else breaks


def _time_stamp(packet: list[int]) -> int | None:
    """The time stamp of the picture that begins in a packet of MPEG-TS, in ticks of 1/90000 s."""
    start = 5 + packet[4] if packet[3] & 0x20 else 4
    head = packet[start : start + 14]
    if packet[0] != TS_SYNC or len(head) < 14 or head[:3] != [0, 0, 1] or not head[7] & 0x80:
        return None
    high, *low = head[9:]
    return (high >> 1 & 7) << 30 | low[0] << 22 | low[1] >> 1 << 15 | low[2] << 7 | low[3] >> 1


def broken_elements(path: pathlib.Path, data: bytes | None) -> list[Break]:
    """Where the elements of a Matroska file do not follow each other; empty for a whole file.

    Args:
      path: the file.
      data: its bytes, where they are in memory; ``path`` is then only its name.

    Raises OSError where the file cannot be read.
    """
    breaks: list[Break] = []
    with path.open("rb") if data is None else io.BytesIO(data) as file:
        end, known = file.seek(0, io.SEEK_END), False
        position, tick, first = 0, 0, None
        while position < end:
            file.seek(position)
            name, length, body = element(file.read(12))
            is_master = name in (SEGMENT, _CLUSTER)
            if name == SEGMENT and length is not None and position + body + length <= end:
                end, known = position + body + length, True  # what follows is no part of it
            outside = length is not None and position + body + length > end
            if name not in _ELEMENTS or (length is None and not is_master) or (outside and known):
                first = tick if first is None else min(first, tick)
                position = _next_cluster(file, position + 1)
                if position < 0:
                    breaks.append(Break(first, None))
                    break
                continue
            if name == _TIMESTAMP:
                file.seek(position + body)
                tick = int.from_bytes(file.read(min(length or 0, 8)))
                if first is not None:
                    breaks.append(Break(first, tick))
                    first = None
            position += body if is_master else body + (length or 0)
    return breaks


def _next_cluster(file: io.BufferedIOBase, position: int) -> int:
    """Where the next cluster begins at or behind ``position``; -1 where there is none."""
    tail = b""
    file.seek(position)
    while chunk := file.read(_CHUNK):
        found = (tail + chunk).find(_CLUSTER)
        if found >= 0:
            return position - len(tail) + found
        position, tail = position + len(chunk), (tail + chunk)[-3:]
    return -1
