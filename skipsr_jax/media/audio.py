"""Converting an audio track that an output's container cannot hold.

Invariant: a sample keeps its distance in time to the video.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction

import av

_BITS_PER_CHANNEL = 96_000  # per second, of lossy codecs
_BITS_PER_SAMPLE = 4  # at most: AAC refuses more at low rates
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_GAP = Fraction(1, 10)  # seconds; less is jitter of time stamps


class AudioConverter:
    """Decodes a track and encodes it for ``output``.

    Attributes:
      stream: the new stream of the output.
    """

    def __init__(
        self,
        source: av.AudioStream,
        output: av.container.OutputContainer,
        encoder: str,
        origin: Fraction,
        is_cut: bool = False,
    ):
        """Adds the stream.

        Args:
          source: the track.
          output: not yet encoding.
          encoder: FFmpeg's name.
          origin: seconds of the source's clock at which the output begins.
          is_cut: whether samples before that are left out.
        """
        context = source.codec_context
        codec = av.Codec(encoder, "w")
        rate = _nearest_rate(codec, context.sample_rate)
        known = [known.name for known in codec.audio_formats or ()]
        deep = context.format is not None and context.format.bytes > 2
        choices = ("s32", "s32p", "s16", "s16p") if deep else ("s16", "s16p", "s32", "s32p")
        form = next((name for name in choices if name in known), known[0] if known else "s16")
        layout = _layout_for(encoder, form, rate, context.layout)
        self.stream = output.add_stream(encoder, rate=rate)
        _configure(self.stream.codec_context, form, layout, rate)
        self._rate, self._origin = rate, origin
        self._source, self._form = context, (form, layout, rate)
        self._resampler: av.AudioResampler | None = None
        self._takes: tuple | None = None
        self._is_cut = is_cut
        self._waiting = av.AudioFifo()  # samples that do not fill a block yet
        self._taken = self._made = 0  # samples of the output: that went in there, and came out
        self._starts: list[tuple[int, int]] = []  # of runs without a gap: the sample, when it is

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        """Yields the packets that are ready; nothing for a packet that cannot be decoded."""
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            return
        for frame in frames:
            self._take(frame)
        yield from self._blocks()

    def flush(self) -> Iterator[av.Packet]:
        """Yields the rest."""
        try:
            frames = self._source.decode(None)
        except av.FFmpegError:
            frames = []
        for frame in frames:
            self._take(frame)
        self._resample(None)
        yield from self._blocks(is_last=True)
        yield from self.stream.encode(None)

    def _take(self, frame: av.AudioFrame) -> None:
        """Resamples a decoded frame. Its form may be another than that of the one before."""
        takes = frame.format.name, frame.layout.name, frame.sample_rate
        if takes != self._takes:
            self._resample(None)
            self._resampler, self._takes = av.AudioResampler(*self._form), takes
        self._note_start(frame)
        frame.pts = None  # samples follow each other, but for gaps
        self._resample(frame)

    def _resample(self, frame: av.AudioFrame | None) -> None:
        for made in self._resampler.resample(frame) if self._resampler else ():
            made.pts = None
            self._taken += made.samples
            self._waiting.write(made)

    def _note_start(self, frame: av.AudioFrame) -> None:
        """Notes when the samples of a frame are heard, if they do not follow those before."""
        if frame.pts is None or frame.time_base is None:
            start = None
        else:
            seconds = frame.pts * Fraction(frame.time_base) - self._origin
            start = round(seconds * self._rate)
        if not self._starts:
            self._starts.append((0, start or 0))
        elif start is not None:
            sample, before = self._starts[-1]
            if start - (before + self._taken - sample) > _GAP * self._rate:
                self._starts.append((self._taken, start))

    def _cut(self) -> None:
        """Drops the samples that are heard before the output begins."""
        if self._is_cut and self._starts:
            sample, start = self._starts[0]
            early = min(sample - start - self._made, self._taken - self._made)
            if early > 0:
                self._waiting.read(early)
                self._made += early

    def _blocks(self, is_last: bool = False) -> Iterator[av.Packet]:
        """Encodes what waits, in blocks of the size that the encoder wants."""
        size = self.stream.codec_context.frame_size
        self._cut()
        while self._taken - self._made >= (1 if is_last else max(size, 1)):
            block = self._waiting.read(size, partial=is_last)
            while len(self._starts) > 1 and self._starts[1][0] <= self._made:
                self._starts.pop(0)
            sample, start = self._starts[0]
            block.pts, block.time_base = start + self._made - sample, Fraction(1, self._rate)
            self._made += block.samples
            yield from self.stream.encode(block)


def _configure(context: av.AudioCodecContext, form: str, layout: str, rate: int) -> None:
    context.sample_rate, context.time_base = rate, Fraction(1, rate)
    context.format, context.layout = form, layout
    if context.name in ("aac", "libopus"):
        bits = min(_BITS_PER_CHANNEL, _BITS_PER_SAMPLE * rate)
        context.bit_rate = bits * context.layout.nb_channels


def _layout_for(encoder: str, form: str, rate: int, layout: av.AudioLayout) -> str:
    """The layout itself, or the usual one of as many channels, or stereo: what the encoder takes.

    Old formats state a number of channels only.
    """
    for name in (layout.name, _LAYOUTS.get(layout.nb_channels)):
        context = av.CodecContext.create(encoder, "w")
        with contextlib.suppress(av.FFmpegError, ValueError):
            if name:
                _configure(context, form, name, rate)
                context.open()
                return name
    return "stereo"


def _nearest_rate(codec: av.Codec, rate: int) -> int:
    """The rate itself, or the lowest above that the codec knows, else its highest."""
    known = sorted(codec.audio_rates or ())
    if not known or rate in known:
        return rate
    return next((each for each in known if each > rate), known[-1])
