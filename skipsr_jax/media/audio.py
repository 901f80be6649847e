"""Copying a clip's audio packets beside newly encoded video, without decoding them.

Invariant: a packet keeps its distance in time to the first video frame, and packets are read only
as far as the video has come, so that memory stays constant and the file is well interleaved.
"""

import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av

from skipsr_jax.errors import UserError

_PREROLL = Fraction(1, 10)  # seconds before the first frame that a decoder may need to start


class AudioCopy:
    """Copies every audio stream of ``source`` into ``output``, whose video starts at 0."""

    def __init__(self, source: pathlib.Path, output: av.container.OutputContainer, start: Fraction):
        """Opens the source and adds its streams to the output.

        Args:
          source: the file with the sound.
          output: not yet encoding.
          start: when the first video frame is shown in the source, in seconds of its clock.

        Raises UserError when the output's container cannot hold one of the codecs.
        """
        self._input = av.open(str(source))
        self._output = output
        self._start = start
        self._streams = {}
        for stream in self._input.streams.audio:
            codec = stream.codec_context.name
            try:
                self._streams[stream.index] = output.add_stream_from_template(stream)
            except ValueError as error:
                self._input.close()
                raise UserError(
                    f"{output.format.name} cannot hold the source's {codec} audio; "
                    "write .mkv or leave the audio out"
                ) from error
        self._packets: Iterator[av.Packet] = self._input.demux(*self._input.streams.audio)
        self._waiting: av.Packet | None = None

    def copy_until(self, end: Fraction | None) -> None:
        """Copies the packets that start before ``end`` seconds of video; None: all the rest."""
        while (packet := self._next()) is not None:
            time_base = Fraction(packet.time_base)  # PyAV 19 has a type of its own
            begins = packet.pts * time_base - self._start
            if end is not None and begins >= end:
                return
            self._waiting = None
            if begins < -_PREROLL:
                continue
            shift = round(self._start / time_base)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._streams[packet.stream.index]
            self._output.mux(packet)

    def close(self) -> None:
        """Closes the source; safe to call twice."""
        self._input.close()

    def _next(self) -> av.Packet | None:
        while self._waiting is None:
            packet = next(self._packets, None)
            if packet is None:
                return None
            if packet.size and packet.pts is not None:
                self._waiting = packet
        return self._waiting
