"""Encoded packets of a video in a file, exactly as an encoder made them.

    magic, time base (numerator, denominator)
    for each packet: time stamps, duration, flags, length and CRC-32 of its data, data

A container would round time stamps, or not keep those of decoding. Invariant: what is read is what
was written; a file that was cut off or changed is recognised.
"""

import contextlib
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction

import av

from skipsr_jax.errors import UserError

_MAGIC = b"skipsr packets 1\n"
_HEAD = struct.Struct("<qq")
_PACKET = struct.Struct("<qqqBII")
_KEY, _HAS_DTS = 1, 2


class PacketFileWriter:
    """Writes packets into a new file, or in place of the old one.

    Args:
      path: of the file.
      time_base: of all packets.
    """

    def __init__(self, path: pathlib.Path, time_base: Fraction):
        self._time_base = time_base
        self._file = path.open("wb")
        self._file.write(_MAGIC + _HEAD.pack(time_base.numerator, time_base.denominator))

    def write(self, packet: av.Packet) -> None:
        """Appends a packet. Its side data is not kept."""
        if packet.time_base != self._time_base:
            raise ValueError(f"a packet in units of {packet.time_base}, not {self._time_base} s")
        flags = _KEY * packet.is_keyframe | _HAS_DTS * (packet.dts is not None)
        data = bytes(packet)
        times = packet.pts, packet.dts or 0, packet.duration or 0
        self._file.write(_PACKET.pack(*times, flags, len(data), zlib.crc32(data)) + data)

    def close(self) -> None:
        """Closes the file when it is on the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is."""
        with contextlib.suppress(OSError):  # the disk is full; the first error is the one to tell
            self._file.close()


def read_packets(path: pathlib.Path) -> Iterator[av.Packet]:
    """Yields the packets of a file. Raises UserError where it is damaged."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + _HEAD.size)
        if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + _HEAD.size:
            raise _damaged(path)
        time_base = Fraction(*_HEAD.unpack(head[len(_MAGIC) :]))
        while facts := file.read(_PACKET.size):
            if len(facts) < _PACKET.size:
                raise _damaged(path)
            pts, dts, duration, flags, length, checksum = _PACKET.unpack(facts)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data) != checksum:
                raise _damaged(path)
            packet = av.Packet(data)
            packet.pts, packet.dts = pts, dts if flags & _HAS_DTS else None
            packet.duration, packet.time_base = duration, time_base
            packet.is_keyframe = bool(flags & _KEY)
            yield packet


def _damaged(path: pathlib.Path) -> UserError:
    return UserError(f"{path} is damaged: remove the folder {path.parent} to begin anew")
