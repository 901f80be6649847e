"""Writing videos with the audio, the time stamps and the colour tags of the clip they come from.

The writer is a context manager that takes one frame at a time. Invariant: the name the user gave
holds a complete result or is untouched; work goes to a temporary name beside it, which is renamed
at a clean end and removed after any exception.
"""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from types import TracebackType

import av

from skipsr_jax.errors import UserError
from skipsr_jax.files import commit, temporary_path
from skipsr_jax.media.audio import AudioCopy
from skipsr_jax.media.colour import (
    SRGB_VIDEO,
    ColourTags,
    RgbFrame,
    apply_tags,
    frame_of_planes,
    from_rgb,
)
from skipsr_jax.media.encoding import Encoding, encoder_options, resolved
from skipsr_jax.media.outputs import check_writable, write_error
from skipsr_jax.media.reader import Media
from skipsr_jax.media.yuv_format import YuvFormat, yuv_format
from skipsr_jax.types import HostArray

WRITABLE_VIDEO_EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm")
_TAGGED_SAR = ("libx264", "libx265")  # write the pixel aspect ratio into the stream itself
_DEFAULT_ENCODING = Encoding()


def check_video_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Raises the UserError that opening a VideoWriter would: call it before expensive work."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in WRITABLE_VIDEO_EXTENSIONS:
        known = ", ".join(WRITABLE_VIDEO_EXTENSIONS)
        raise UserError(f"cannot write {path}: a video name must end in one of {known}")
    check_writable(path, overwrite=overwrite)


class VideoWriter:
    """Encodes frames, RGB (`write`) or the file's own codes (`write_planes`), into a video file.

    With ``source``, a clip read by `open_media`, the result has its timestamps (constant or
    variable rate), colour tags, pixel aspect ratio and, with ``audio``, copies of its audio
    packets, in sync and cut to the frames written when these are fewer. Without, or for a folder of
    frames, ``rate`` is needed; a rate other than the source's retimes it and leaves the audio out.
    ``bit_depth`` 8 or 10 (default: the source's, at most 10) is of the file; frames may be uint8 or
    uint16 at either.
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
        audio: bool = True,
        overwrite: bool = False,
    ):
        """Checks everything that can be checked before the first frame; raises UserError."""
        self.path = pathlib.Path(path)
        check_video_output(self.path, overwrite=overwrite)
        rate = rate or (source.frame_rate if source else None)
        if rate is None or rate <= 0:
            raise UserError(f"a frame rate is needed to write {self.path}: the input states none")
        if height < 1 or width < 1:
            raise ValueError(f"a video of {width}x{height} pixels cannot be written")
        self.frames_written = 0
        self._height, self._width, self._rate = height, width, Fraction(rate)
        self._source = source
        same_rate = source is not None and source.frame_rate == rate
        self._times = source.times if source and same_rate else None
        self._colour = source.colour if source else SRGB_VIDEO
        depth = bit_depth or (min(10, source.bit_depth) if source else 8)
        self._encoding = resolved(encoding, self.path.suffix.lower(), depth, height, width)
        self._check_pixel_aspect()
        self._partial = temporary_path(self.path)
        self._overwrite = overwrite
        self._copy_audio = bool(audio and same_rate and source and source.has_audio)
        self._container: av.container.OutputContainer | None = None
        self._audio: AudioCopy | None = None

    def __enter__(self) -> "VideoWriter":
        try:
            self._open()
        except BaseException as error:
            self._abandon()
            if isinstance(error, (av.FFmpegError, OSError)):
                raise self._error(error) from error
            raise
        return self

    def write(self, frame: RgbFrame) -> None:
        """Appends a frame (height, width, 3). Raises UserError when the disk is full."""
        if frame.shape != (self._height, self._width, 3):
            raise ValueError(
                f"frame of shape {frame.shape}; this video takes ({self._height}, {self._width}, 3)"
            )
        self._encode(from_rgb(frame, self._colour, self.pixel_format))

    def write_planes(self, planes: Sequence[HostArray]) -> None:
        """Appends a frame given as the codes of the file, see ``yuv_format``.

        Args:
          planes: luma (height, width), blue difference and red difference, uint8 or uint16.
        """
        if planes[0].shape != (self._height, self._width):
            raise ValueError(
                f"luma of shape {planes[0].shape}; this video takes ({self._height}, {self._width})"
            )
        self._encode(frame_of_planes(planes, self._colour, self.pixel_format))

    @property
    def yuv_format(self) -> YuvFormat:
        """What the codes of the file mean, for those who make them (``pixels.yuv``)."""
        return yuv_format(self.pixel_format, self._colour.matrix, self._colour.full_range)

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the file's pixel format."""
        return self._encoding.pixel_format or ""

    @property
    def colour(self) -> ColourTags:
        """What the file says about its colours."""
        return self._colour

    def _encode(self, picture: av.VideoFrame) -> None:
        index = self.frames_written
        if self._times is not None and index >= len(self._times):
            raise ValueError(f"frame {index} has no time: the source has {len(self._times)} frames")
        picture.pts = self._ticks(index)
        picture.time_base = self._time_base
        picture.duration = self._ticks(index + 1) - picture.pts
        try:
            self._mux(self._stream.encode(picture))
            if self._audio:
                self._audio.copy_until(picture.pts * self._time_base)
        except (av.FFmpegError, OSError) as error:
            raise self._error(error) from error
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
            raise self._error(failure) from failure
        finally:
            self._abandon()

    def _check_pixel_aspect(self) -> None:
        ratio = self._source.sample_aspect_ratio if self._source else Fraction(1)
        in_container = self.path.suffix.lower() in (".mp4", ".mov")
        if ratio != 1 and not in_container and self._encoding.codec not in _TAGGED_SAR:
            raise UserError(
                f"the source's pixels are not square ({ratio}) and {self._encoding.codec} in "
                f"{self.path.suffix} would lose that; write .mp4 instead"
            )

    def _open(self) -> None:
        encoding = self._encoding
        self._time_base = 1 / self._rate
        if self._times is not None and self._source and self._source.timing:
            self._time_base = self._source.timing.time_base
        if encoding.codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it prints by itself
        self._container = av.open(str(self._partial), "w")
        stream = self._container.add_stream(
            encoding.codec, rate=self._rate, options=encoder_options(encoding)
        )
        stream.width, stream.height = self._width, self._height
        stream.pix_fmt = encoding.pixel_format
        stream.thread_type = "FRAME"  # whole frames in parallel: faster than slices, PyAV's default
        stream.time_base = self._time_base
        stream.codec_context.time_base = self._time_base
        if self._source:
            stream.codec_context.sample_aspect_ratio = self._source.sample_aspect_ratio
        apply_tags(stream.codec_context, self._colour)
        if encoding.codec == "libx265" and self.path.suffix.lower() in (".mp4", ".mov"):
            stream.codec_context.codec_tag = "hvc1"  # QuickTime plays no hev1
        self._stream = stream
        if self._copy_audio and self._source and self._source.timing:
            start = self._source.timing.start
            self._audio = AudioCopy(self._source.path, self._container, start)
        self._container.start_encoding()

    def _ticks(self, index: int) -> int:
        """When frame ``index`` starts, in units of the stream's time base."""
        if self._times is None:
            return index
        if index < len(self._times):
            seconds = self._times[index]
        else:
            seconds = self._times[-1] + 1 / self._rate
        return round(seconds / self._time_base)

    def _mux(self, packets: list[av.Packet]) -> None:
        if self._container:
            self._container.mux(packets)

    def _finish(self) -> None:
        if self.frames_written == 0:
            raise UserError(f"no frame was written to {self.path}")
        self._mux(self._stream.encode(None))
        if self._audio:
            whole = self._source and self._source.num_frames == self.frames_written
            end = self._ticks(self.frames_written) * self._time_base
            self._audio.copy_until(None if whole else end)
            self._audio.close()
        if self._container:
            self._container.close()
        commit(self._partial, self.path, overwrite=self._overwrite)

    def _abandon(self) -> None:
        """Closes what is open and removes the temporary file; nothing to do after a clean end."""
        if self._audio:
            self._audio.close()
        if self._container:
            with contextlib.suppress(av.FFmpegError, OSError):  # the first error is the one to tell
                self._container.close()
        self._container = None
        self._partial.unlink(missing_ok=True)

    def _error(self, error: av.FFmpegError | OSError) -> UserError:
        if isinstance(error, OSError):
            return write_error(self.path, error)
        settings = self._encoding
        return UserError(
            f"cannot encode {self.path} with {settings.codec}, {settings.pixel_format}, "
            f"crf {settings.crf}: {error}"
        )
