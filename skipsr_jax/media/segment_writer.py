"""Encodes consecutive frames of a video into a file of packets, apart from the rest.

A long video is made of such segments, each by an encoder of its own, so that a run that is killed
loses one of them at most. `VideoWriter.write_packets` puts them into one file without coding
anything again. Invariant: the file does not depend on when its segments were made.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import av

from skipsr_jax.media.outputs import write_error
from skipsr_jax.media.packet_file import PacketFileWriter
from skipsr_jax.media.reader import Media
from skipsr_jax.media.tracks import FORMATS
from skipsr_jax.media.video_writer import VideoWriter
from skipsr_jax.types import HostArray


class SegmentWriter(VideoWriter):
    """Encodes the frames of ``source`` from ``first`` on, as many as are written.

    Args:
      packets: the file of the packets; one that exists is replaced.
      first: index of the first frame.
      path, source, others: of the `VideoWriter` that will join the segments.
    """

    def __init__(
        self, packets: pathlib.Path, first: int, path: pathlib.Path, source: Media, **others: Any
    ):
        super().__init__(path, source=source, **others)
        self._packets_path, self._first = packets, first
        self._packets: PacketFileWriter | None = None
        self.frames_written = first

    def _scaled_alphas(self, source: Media | None) -> Iterator[HostArray]:
        return super()._scaled_alphas(source.part(self._first) if source else None)

    def _open_container(self) -> av.container.OutputContainer:
        """A container that stays empty: the encoder is made for its format."""
        self._packets = PacketFileWriter(self._packets_path, self._clock.unit)
        return av.open(io.BytesIO(), "w", format=FORMATS[self.path.suffix.lower()])

    def _carry_over(self, source: Media, output: av.container.OutputContainer) -> None:
        """Nothing: tracks are copied when segments are joined."""

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            if self._packets:
                self._packets.write(packet)

    def _finish(self) -> None:
        self._mux(self._encoder.encode(None))
        if self._packets:
            self._packets.close()

    def _abandon(self) -> None:
        if self._packets:
            self._packets.abandon()
        with contextlib.suppress(av.FFmpegError, OSError):
            super()._abandon()

    def _writing_error(self, error: av.FFmpegError | OSError) -> Exception:
        if isinstance(error, OSError):
            return write_error(self._packets_path, error)
        return super()._writing_error(error)
