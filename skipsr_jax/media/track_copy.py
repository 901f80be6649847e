"""Copies the tracks of a clip beside newly encoded video: audio, subtitles, attachments.

Packets are passed on without decoding them, but for audio that has to be converted. Invariants: a
packet keeps its distance in time to the video, time stamps of a track rise, and packets are read
only as far as the video has come, so that memory stays constant and the file is well interleaved.
"""

import logging
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av

from skipsr_jax.media.audio import AudioConverter
from skipsr_jax.media.discontinuity import Bridge
from skipsr_jax.media.scan import open_container
from skipsr_jax.media.tags import readable, tags_to_keep, track_tags
from skipsr_jax.media.tracks import Track, add_copy

_PREROLL = Fraction(1, 20)  # seconds before the beginning that a decoder may need to start
_LONGEST = Fraction(1)  # seconds of a packet that does not say how long it is
_FINE = Fraction(1, 10**6)  # seconds of a tick that rounds nothing that can be heard
_PCM = re.compile(r"pcm_[suf](8|16|24|32|64)(?:le|be)?")  # interleaved, of so many bits
_LOG = logging.getLogger(__name__)


class TrackCopy:
    """Copies tracks of ``source`` into ``output``, whose time 0 is ``origin`` in the source."""

    def __init__(
        self,
        source: pathlib.Path,
        output: av.container.OutputContainer,
        extension: str,
        tracks: Sequence[Track],
        origin: Fraction,
        is_bridged: bool,
        is_cut: bool = False,
        end: Fraction | None = None,
    ):
        """Opens the source and adds its streams to the output, which is not yet encoding.

        Args:
          source: the file.
          output: the container that is written.
          extension: of its file.
          tracks: as ``plan_tracks`` gives them.
          origin: seconds of the source's clock.
          is_bridged: whether that clock jumps (`Bridge`).
          is_cut: whether the output begins within the source, and not with it.
          end: seconds of the output at which its last frame, and every subtitle, ends.
        """
        self._source, self._output, self._origin = source, output, origin
        self._input, self._extension = open_container(source), extension
        self._streams: dict[int, av.stream.Stream] = {}
        self._converters: dict[int, AudioConverter] = {}
        self._last: dict[int, tuple[Fraction, Fraction]] = {}
        self._refused = 0
        self._is_bridged, self._is_cut, self._end = is_bridged, is_cut, end
        for track in tracks:
            if track.how != "leave":
                self._add(track)
        self._packets = self._demuxed()
        self._waiting: av.Packet | None = None

    def copy_until(self, end: Fraction | None) -> None:
        """Copies the packets that start before ``end`` seconds of the output; None: the rest."""
        while (packet := self._next()) is not None:
            time_base = Fraction(packet.time_base)
            begins = packet.pts * time_base - self._origin
            if end is not None and begins >= end:
                return
            self._waiting = None
            if begins < 0 and packet.stream.type == "subtitle" and packet.duration:
                packet.duration += round(begins / time_base)  # what is left of it
                begins = Fraction(0)
                if packet.duration <= 0:
                    continue
            converter = self._converters.get(packet.stream.index)
            if self._is_cut and begins < 0:
                length = (packet.duration or 0) * time_base
                if begins + (max(length, _LONGEST) if converter else length) <= 0:
                    continue
                if not converter:
                    packet, begins = _without_head(packet, -begins)
                    if packet is None:
                        continue
            elif begins < -_PREROLL:
                continue
            if converter:
                for made in converter.convert(packet):
                    self._mux(made)
            else:
                self._copy(packet, begins, time_base)

    def finish(self) -> None:
        """Writes what the converters hold back, and says what could not be written."""
        for converter in self._converters.values():
            for made in converter.flush():
                self._mux(made)
        if self._refused:
            _LOG.warning(
                "%s: %d packets of audio or subtitles are damaged and left out",
                self._source, self._refused,
            )  # fmt: skip

    def close(self) -> None:
        """Closes the source; safe to call twice."""
        self._input.close()

    def _add(self, track: Track) -> None:
        stream = self._input.streams[track.index]
        if track.how == "attach":
            name = readable(stream.metadata.get("filename", "attachment"))
            kind = stream.mimetype or "application/octet-stream"
            copy = self._output.add_attachment(name, kind, stream.data)
            copy.metadata.update(tags_to_keep(stream.metadata))
            return
        if track.how == "convert":
            converter = AudioConverter(
                stream, self._output, track.encoder, self._origin, self._is_cut
            )
            self._converters[track.index] = converter
            copy = converter.stream
        else:
            copy = add_copy(self._output, stream, track.how)
        self._streams[track.index] = copy
        copy.metadata.update(track_tags(stream.metadata, self._extension))
        copy.disposition = stream.disposition

    def _demuxed(self) -> Iterator[av.Packet]:
        wanted = [self._input.streams[index] for index in self._streams]
        if not wanted:
            return
        bridge = Bridge(self._input)
        for packet in self._input.demux(*([] if self._is_bridged else wanted)):
            if self._is_bridged:
                bridge(packet)
            if packet.stream.index in self._streams:
                yield packet

    def _next(self) -> av.Packet | None:
        while self._waiting is None:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as error:
                _LOG.warning("%s: the audio ends early (%s)", self._source, error.strerror)
                return None
            if packet is None:
                return None
            if packet.size and packet.pts is None:
                packet.pts = packet.dts
            if packet.size and packet.stream.type == "video":  # a cover picture
                packet.pts = packet.dts = round(self._origin / Fraction(packet.time_base))
            if packet.size and packet.pts is not None:
                self._waiting = packet
        return self._waiting

    def _copy(self, packet: av.Packet, begins: Fraction, time_base: Fraction) -> None:
        """Writes a packet; a time stamp that does not rise follows the packet before.

        Where recordings were joined the sound of one may reach into the next: that is left out.
        """
        index = packet.stream.index
        last, length = self._last.get(index, (None, Fraction(0)))
        same_allowed = packet.stream.type == "subtitle"
        if last is not None and (begins < last or (begins == last and not same_allowed)):
            if self._is_bridged:
                return
            begins = last + max(length, time_base)
        if same_allowed and self._end is not None and not _shortened(packet, self._end - begins):
            return
        self._last[index] = begins, (packet.duration or 0) * time_base
        if (begins / time_base).denominator > 1:  # ticks of AVI are as long as its packets
            packet.duration = round((packet.duration or 0) * time_base / _FINE)
            packet.time_base = time_base = _FINE
        packet.pts = packet.dts = round(begins / time_base)
        packet.stream = self._streams[index]
        self._mux(packet)

    def _mux(self, packet: av.Packet) -> None:
        try:
            self._output.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError):
            self._refused += 1


def _shortened(packet: av.Packet, rest: Fraction) -> bool:
    """Makes a subtitle last ``rest`` seconds at most. False: nothing of it would be seen.

    One that does not say how long it is ends with the next.
    """
    if packet.duration:
        packet.duration = min(packet.duration, math.floor(rest / Fraction(packet.time_base)))
        return packet.duration > 0
    return rest > 0


def _without_head(packet: av.Packet, early: Fraction) -> tuple[av.Packet | None, Fraction]:
    """The rest of a packet that begins ``early`` seconds before the output, and when that begins.

    None where only decoding could tell what the rest is: of audio other than PCM.
    """
    context = packet.stream.codec_context
    kind = _PCM.fullmatch(context.name) if packet.stream.type == "audio" else None
    if kind is None:
        return None, Fraction(0)
    samples = math.ceil(early * context.sample_rate)
    data = bytes(packet)[samples * int(kind[1]) // 8 * context.layout.nb_channels :]
    rest, length = av.Packet(data), Fraction(samples, context.sample_rate)
    rest.stream, rest.time_base = packet.stream, packet.time_base
    rest.duration = max(0, (packet.duration or 0) - round(length / Fraction(packet.time_base)))
    return (rest if data else None), length - early
