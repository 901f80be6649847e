"""Writing videos with the tracks, the time stamps and the colour tags of the clip they come from.

The writer is a context manager that takes one frame at a time. Invariant: the name the user gave
holds a complete result or is untouched; work goes to a temporary name beside it, which is renamed
at a clean end and removed after any exception.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType

import av
import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.files import commit_or_rename, hold, identity, temporary_path
from skipsr_jax.media.alpha import alpha_codes, upscaled_alpha
from skipsr_jax.media.colour import (
    SRGB_VIDEO,
    ColourTags,
    RgbFrame,
    apply_tags,
    frame_of_planes,
    from_rgb,
    storable_tags,
)
from skipsr_jax.media.encoding import (
    Encoding,
    encoder_options,
    encoding_error,
    in_pyav,
    layouts,
    resolved,
)
from skipsr_jax.media.ffmpeg_pipe import PipedEncoder
from skipsr_jax.media.frame_clock import FrameClock, first_audio
from skipsr_jax.media.hardware_encoders import is_hevc, layout_for
from skipsr_jax.media.hdr import encoder_options as hdr_options
from skipsr_jax.media.outputs import check_writable, write_error
from skipsr_jax.media.pixel_aspect import pixel_aspect
from skipsr_jax.media.reader import Media
from skipsr_jax.media.scan import open_container, video_stream_index
from skipsr_jax.media.tags import chapters_within, global_tags, has_timecode, track_tags
from skipsr_jax.media.track_copy import TrackCopy
from skipsr_jax.media.tracks import Track, notes_of, plan_tracks
from skipsr_jax.media.yuv_format import YuvFormat, has_alpha, yuv_format
from skipsr_jax.types import HostArray

WRITABLE_VIDEO_EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm")
_TAGGED_SAR = ("libx264", "libx265")  # write the pixel aspect ratio into the stream itself
_DEFAULT_ENCODING = Encoding()
_MUXER_OPTIONS = {".mkv": {"default_mode": "passthrough"}}  # flags are those of the source


def check_video_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Raises the UserError that opening a VideoWriter would: call it before expensive work."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in WRITABLE_VIDEO_EXTENSIONS:
        known = ", ".join(WRITABLE_VIDEO_EXTENSIONS)
        raise UserError(f"cannot write {path}: a video name must end in one of {known}")
    check_writable(path, overwrite=overwrite)


class _Checked(Exception):
    """Leaves a writer whose header was written, so that nothing is kept."""


class VideoWriter:
    """Encodes frames, RGB (`write`) or the file's own codes (`write_planes`), into a video file.

    With ``source``, a clip read by `open_media`, the result has its timestamps (constant or
    variable rate), colour tags, pixel aspect ratio, tags, chapters and the tracks that the
    container can hold, in sync and cut to the frames written when these are fewer. Without, or for
    a folder of frames, ``rate`` is needed; a rate other than the source's retimes it and leaves the
    tracks out. ``bit_depth`` 8 or 10 (default: the source's, at most 10) is of the file; frames may
    be uint8 or uint16 at either.

    Attributes:
      path: of the file.
      frames_written: so far.
      notes: one line for each thing that the result does not have as the source has it.
      before_commit: called with the complete file before it gets its name.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        height: int,
        width: int,
        source: Media | None = None,
        rate: Fraction | None = None,
        bit_depth: int | None = None,
        encoding: Encoding = _DEFAULT_ENCODING,
        audio: str = "auto",
        overwrite: bool = False,
    ):
        """Checks everything that can be checked before the first frame; raises UserError.

        ``audio``: one of AUDIO_CHOICES.
        """
        self.path = pathlib.Path(path)
        check_video_output(self.path, overwrite=overwrite)
        rate = rate or (source.frame_rate if source else None)
        if rate is None or rate <= 0:
            raise UserError(f"a frame rate is needed to write {self.path}: the input states none")
        if height < 1 or width < 1:
            raise ValueError(f"a video of {width}x{height} pixels cannot be written")
        self.frames_written, self._is_joined = 0, False
        self.before_commit: Callable[[pathlib.Path], None] = lambda partial: None
        self._height, self._width, self._rate = height, width, Fraction(rate)
        self._source = source
        same_rate = source is not None and source.frame_rate == rate
        self._pixel_aspect = pixel_aspect(source, height, width) if source else Fraction(1)
        depth = bit_depth or (8 if not source or source.bit_depth == 8 else 10)
        extension = self.path.suffix.lower()
        keep = bool(source and source.keep_alpha)
        self._encoding = resolved(encoding, extension, depth, height, width, keep)
        colour = source.colour if source else SRGB_VIDEO
        self._colour = storable_tags(colour, self._encoding.codec or "", height, width)
        self._hdr = source.video.hdr if source and source.video else None
        self._alphas: Iterator[HostArray] | None = None
        if has_alpha(self.pixel_format):
            self._alphas = self._scaled_alphas(source if keep else None)
        self._check_pixel_aspect()
        self._partial = temporary_path(self.path)
        self._overwrite, self._before = overwrite, identity(self.path)
        self._held = contextlib.ExitStack()
        self._container: av.container.OutputContainer | None = None
        self._piped: PipedEncoder | None = None
        self._tracks: tuple[Track, ...] = ()
        self._copy: TrackCopy | None = None
        self._clock = FrameClock(self._rate, None, Fraction(0))
        self._durations: dict[int, int] = {}
        self.notes: list[str] = []
        if source and source.video and same_rate:
            self._tracks = plan_tracks(source.path, extension, audio)
            self.notes = notes_of(source.path, self._tracks, extension)
            codec = self._encoding.codec or ""
            if self._hdr and self._hdr.is_hdr10 and hdr_options(self._hdr, codec) is None:
                self.notes.append(f"HDR10 mastering data is left out: {codec} does not take it")
            if source.first and has_timecode(source.path):
                self.notes.append("timecode is left out: the result begins at a later frame")
            audio_start = None  # where the part begins later, the output does with it
            if audio != "none" and not source.first:
                audio_start = first_audio(source.path)
            self._clock = FrameClock(self._rate, source.timing, audio_start)

    def check(self) -> None:
        """Raises the UserError that writing the first frame would end in; nothing is left."""
        with contextlib.suppress(_Checked), self:
            raise _Checked

    def __enter__(self) -> "VideoWriter":
        try:
            self._open()
        except BaseException as error:
            self._abandon()
            if isinstance(error, (av.FFmpegError, OSError)):
                raise encoding_error(self.path, self._encoding, error) from error
            raise
        return self

    def write(self, frame: RgbFrame) -> None:
        """Appends a frame (height, width, 3). Raises UserError when the disk is full."""
        if frame.shape != (self._height, self._width, 3):
            raise ValueError(
                f"frame of shape {frame.shape}; this video takes ({self._height}, {self._width}, 3)"
            )
        self._encode(from_rgb(frame, self._colour, self.pixel_format, self._alpha()))

    def write_planes(self, planes: Sequence[HostArray]) -> None:
        """Appends a frame given as the codes of the file, see ``yuv_format``.

        Args:
          planes: luma (height, width), blue difference and red difference, uint8 or uint16.
        """
        if planes[0].shape != (self._height, self._width):
            raise ValueError(
                f"luma of shape {planes[0].shape}; this video takes ({self._height}, {self._width})"
            )
        alpha = self._alpha()
        planes = [*planes, *([] if alpha is None else [alpha])]
        self._encode(frame_of_planes(planes, self._colour, self.pixel_format))

    def write_packets(self, packets: Iterable[av.Packet]) -> None:
        """Appends frames that a `SegmentWriter` encoded; then nothing else can be appended."""
        self._is_joined = True
        try:
            for packet in packets:
                begins = (packet.pts if packet.dts is None else packet.dts) * packet.time_base
                packet.stream = self._stream
                if self._container:
                    self._container.mux(packet)
                if self._copy:
                    self._copy.copy_until(begins)
                self.frames_written += 1
        except (av.FFmpegError, OSError) as error:
            raise self._writing_error(error) from error

    @property
    def yuv_format(self) -> YuvFormat:
        """What the codes of the file mean, for those who make them (``pixels.yuv``)."""
        return yuv_format(self.pixel_format, self._colour.matrix, self._colour.full_range)

    @property
    def can_be_joined(self) -> bool:
        """Whether the video can be encoded in segments: the alpha of VP9 is not in its packets."""
        return not (self._encoding.codec == "libvpx-vp9" and has_alpha(self.pixel_format))

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the file's pixel format."""
        return self._encoding.pixel_format or ""

    @property
    def colour(self) -> ColourTags:
        """What the file says about its colours."""
        return self._colour

    def _scaled_alphas(self, source: Media | None) -> Iterator[HostArray]:
        """The codes of each frame's alpha; all opaque without a source that has it."""
        size, bits = (self._height, self._width), self.yuv_format.bits
        for alpha in source.alphas() if source else ():
            yield alpha_codes(upscaled_alpha(alpha, size), bits)
        while True:
            yield alpha_codes(np.full(size, 255, np.uint8), bits)

    def _alpha(self) -> HostArray | None:
        return next(self._alphas) if self._alphas else None

    def _encode(self, picture: av.VideoFrame) -> None:
        index = self.frames_written
        picture.pts = self._clock.ticks(index)
        picture.time_base = self._clock.unit
        picture.duration = self._clock.ticks(index + 1) - picture.pts
        self._durations[picture.pts] = picture.duration
        try:
            packets = self._encoder.encode(picture)
        except (av.FFmpegError, OSError) as error:
            raise encoding_error(self.path, self._encoding, error) from error
        try:
            self._mux(packets)
            if self._copy:
                self._copy.copy_until(picture.pts * self._clock.unit)
        except (av.FFmpegError, OSError) as error:
            raise self._writing_error(error) from error
        self.frames_written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (av.FFmpegError, OSError) as failure:
            raise self._writing_error(failure) from failure
        finally:
            self._abandon()

    def _check_pixel_aspect(self) -> None:
        ratio = self._pixel_aspect
        in_container = self.path.suffix.lower() in (".mp4", ".mov")
        if ratio != 1 and not in_container and self._encoding.codec not in _TAGGED_SAR:
            raise UserError(
                f"the source's pixels are not square ({ratio}) and {self._encoding.codec} in "
                f"{self.path.suffix} would lose that; write .mp4 instead"
            )

    def _open(self) -> None:
        encoding = self._encoding
        if encoding.codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it prints by itself
        self._container = self._open_container()
        if in_pyav(encoding.codec or ""):
            stream = self._add_stream(self._container)
        else:
            stream = self._add_piped_stream(self._container)
        if is_hevc(encoding.codec or "") and self.path.suffix.lower() in (".mp4", ".mov"):
            stream.codec_context.codec_tag = "hvc1"  # QuickTime plays no hev1
        self._stream = stream
        if self._source and self._source.video and self._clock.timing:
            self._carry_over(self._source, self._container)
        self._container.start_encoding()

    def _open_container(self) -> av.container.OutputContainer:
        self._held.enter_context(hold(self._partial))
        options = _MUXER_OPTIONS.get(self.path.suffix.lower(), {})
        return av.open(f"file:{self._partial}", "w", container_options=options)

    def _add_stream(self, output: av.container.OutputContainer) -> av.VideoStream:
        encoding, options = self._encoding, encoder_options(self._encoding, self._hdr)
        try:
            stream = output.add_stream(encoding.codec, rate=self._rate, options=options)
        except ValueError as error:
            codec, container = encoding.codec, self.path.suffix
            raise UserError(f"{container} cannot hold {codec}: choose another of them") from error
        stream.width, stream.height = self._width, self._height
        if not self._clock.is_constant:
            # Reordered frames have decoding times that leave the last one no duration of its own.
            stream.codec_context.max_b_frames = 0
        stream.pix_fmt = layout_for(self.pixel_format, layouts(encoding.codec or ""))
        stream.thread_type = "FRAME"  # whole frames in parallel: faster than slices, PyAV's default
        stream.time_base = stream.codec_context.time_base = self._clock.unit
        stream.codec_context.sample_aspect_ratio = self._pixel_aspect
        apply_tags(stream.codec_context, self._colour)
        self._encoder = stream
        return stream

    def _add_piped_stream(self, container: av.container.OutputContainer) -> av.VideoStream:
        """A stream whose packets the machine's ffmpeg makes."""
        self._piped = self._encoder = PipedEncoder(
            self._encoding.codec or "",
            self.pixel_format,
            (self._height, self._width),
            self._rate,
            encoder_options(self._encoding, self._hdr),
            self._colour,
            self._pixel_aspect,
        )
        template = self._piped.template
        # PyAV looks for an encoder that has the name of the decoder: of AV1 that is libdav1d.
        opaque = template.codec_context.codec.canonical_name == "av1"
        stream = container.add_stream_from_template(template, opaque=opaque)
        stream.time_base = self._clock.unit
        return stream

    def _carry_over(self, source: Media, output: av.container.OutputContainer) -> None:
        """Adds the source's tags, chapters and tracks to an output that is not yet encoding."""
        origin = self._clock.origin
        bridged = bool(source.video and source.video.scan.is_bridged)
        end = self._clock.ticks(source.num_frames) * self._clock.unit
        self._copy = TrackCopy(
            source.path, output, self.path.suffix.lower(), self._tracks, origin, bridged,
            is_cut=source.first > 0, end=end,
        )  # fmt: skip
        with open_container(source.path) as container:
            stream = container.streams.video[video_stream_index(container, source.path)]
            self._stream.metadata.update(track_tags(stream.metadata, self.path.suffix.lower()))
            self._stream.disposition = stream.disposition
            output.metadata.update(global_tags(container))
            if source.first:
                self._stream.metadata.pop("timecode", None)
                output.metadata.pop("timecode", None)
            output.set_chapters(chapters_within(container, origin, origin + end))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.stream = self._stream
            if packet.pts in self._durations:  # encoders guess that of the last frame
                packet.duration = self._durations.pop(packet.pts)
        if self._container:
            self._container.mux(packets)

    def _finish(self) -> None:
        if self.frames_written == 0:
            raise UserError(f"no frame was written to {self.path}")
        if not self._is_joined:
            self._mux(self._encoder.encode(None))
        if self._copy:
            source = self._source
            whole = source and not source.after and source.num_frames <= self.frames_written
            end = self._clock.ticks(self.frames_written) * self._clock.unit
            self._copy.copy_until(None if whole else end)
            self._copy.finish()
            self._copy.close()
        if self._container:
            self._container.close()
        self.before_commit(self._partial)
        commit_or_rename(self._partial, self.path, overwrite=self._overwrite, before=self._before)

    def _abandon(self) -> None:
        """Closes what is open and removes the temporary file; nothing to do after a clean end."""
        if self._copy:
            self._copy.close()
        if self._container:
            with contextlib.suppress(av.FFmpegError, OSError):  # the first error is the one to tell
                self._container.close()
        self._container = None
        if self._piped:
            self._piped.close()
        self._piped = None
        self._partial.unlink(missing_ok=True)
        self._held.close()

    def _writing_error(self, error: av.FFmpegError | OSError) -> UserError:
        """One line for packets that cannot be written: no fault of the picture's encoder."""
        if isinstance(error, OSError):
            return write_error(self.path, error)
        return UserError(
            f"cannot write {self.path} ({error}); without its audio: --config.output.audio=none"
        )
