"""Encodes video with the ffmpeg program of the machine, for encoders that PyAV's FFmpeg lacks.

Raw frames go into its standard input and the packets of one video stream come back, for whoever
writes the file: audio, time stamps and tags are handled as with any other encoder. Frames are not
reordered (no B-frames), so packet k is frame k.
"""

import collections
import io
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import ColourTags
from skipsr_jax.media.hardware_encoders import INTERLEAVED, layout_for, needs

PROGRAM = "ffmpeg"
_END = None
_UPLOAD = {"vaapi": (["-vaapi_device", "/dev/dri/renderD128"], "hwupload")}
"""By interface: options before the input, and the filter that brings frames to the device."""


def layouts_of(codec: str) -> list[str] | None:
    """Pixel formats that an encoder of the machine's ffmpeg takes; None without the encoder."""
    if shutil.which(PROGRAM) is None:
        return None
    said = subprocess.run(
        [PROGRAM, "-hide_banner", "-h", f"encoder={codec}"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    if not said.startswith(f"Encoder {codec} "):
        return None
    found = re.search(r"Supported pixel formats: (.*)", said)
    return found[1].split() if found else []


class PipedEncoder:
    """One video stream, encoded by the machine's ffmpeg.

    Args:
      codec, pixel_format, options: of the encoder, in FFmpeg's words.
      size: (height, width) in pixels.
      rate: frames a second.
      colour: written into the stream.
      pixel_aspect: width over height of a pixel.

    Attributes:
      template: a stream with the parameters of the result, for
        ``OutputContainer.add_stream_from_template``.

    Raises:
      UserError: ffmpeg cannot encode such frames; the message is ffmpeg's last line.
    """

    def __init__(
        self,
        codec: str,
        pixel_format: str,
        size: tuple[int, int],
        rate: Fraction,
        options: dict[str, str],
        colour: ColourTags,
        pixel_aspect: Fraction,
    ):
        self._codec = codec
        self._command = _command(codec, pixel_format, size, rate, options, colour, pixel_aspect)
        self._trial = self._try_one_frame(pixel_format, size)
        self.template = self._trial.streams.video[0]
        self._waiting: collections.deque[tuple[int, int, Fraction]] = collections.deque()
        self._packets: queue.SimpleQueue = queue.SimpleQueue()
        self._said: collections.deque[bytes] = collections.deque(maxlen=20)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._read, lambda: self._said.extend(self._process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def encode(self, picture: av.VideoFrame | None) -> list[av.Packet]:
        """Takes a frame, or None at the end; returns the packets that are ready.

        Raises UserError where ffmpeg stopped.
        """
        try:
            if picture is None:
                self._process.stdin.close()
            else:
                self._waiting.append((picture.pts, picture.duration, picture.time_base))
                for plane in _planes(picture):
                    self._process.stdin.write(memoryview(plane).cast("B"))
        except BrokenPipeError as error:
            raise self._failed() from error
        packets = self._ready() if picture is not None else self._rest()
        for packet in packets:
            packet.pts, packet.duration, packet.time_base = self._waiting.popleft()
            packet.dts = packet.pts
        return packets

    def close(self) -> None:
        """Ends ffmpeg, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        for thread in self._threads:
            thread.join()
        self._process.stdout.close()
        self._process.stderr.close()
        self._trial.close()

    def _read(self) -> None:
        """Puts the packets that ffmpeg writes into the queue, and _END behind them."""
        try:
            with av.open(self._process.stdout, format="nut") as container:
                for packet in container.demux(video=0):
                    if packet.size:
                        self._packets.put(packet)
        except (av.FFmpegError, OSError, ValueError):  # its exit status and its words say why
            pass
        finally:
            self._packets.put(_END)

    def _ready(self) -> list[av.Packet]:
        packets = []
        while not self._packets.empty():
            packet = self._packets.get()
            if packet is _END:
                raise self._failed()
            packets.append(packet)
        return packets

    def _rest(self) -> list[av.Packet]:
        packets = list(iter(self._packets.get, _END))
        if self._process.wait() or len(packets) != len(self._waiting):
            raise self._failed()
        return packets

    def _failed(self) -> UserError:
        self._process.wait()
        self._threads[1].join()
        return _refusal(self._codec, b"".join(self._said))

    def _try_one_frame(
        self, pixel_format: str, size: tuple[int, int]
    ) -> av.container.InputContainer:
        picture = av.VideoFrame(size[1], size[0], pixel_format)
        done = subprocess.run(
            self._command,
            input=b"".join(np.zeros_like(plane).tobytes() for plane in _planes(picture)),
            capture_output=True,
            check=False,
        )
        if done.returncode or not done.stdout:
            raise _refusal(self._codec, done.stderr)
        return av.open(io.BytesIO(done.stdout), format="nut")


def _refusal(codec: str, said: bytes) -> UserError:
    lines = said.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
    line = f"the machine's ffmpeg cannot encode with {codec} here: {lines[-1]}"
    return UserError(f"{line}; {needs(codec)}" if needs(codec) else line)


def _planes(picture: av.VideoFrame) -> list[np.ndarray]:
    """The bytes of each plane, without what lines are padded by."""
    depth = 2 if picture.format.components[0].bits > 8 else 1
    return [
        np.ascontiguousarray(
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
                : plane.height, : plane.width * depth
            ]
        )
        for plane in picture.planes
    ]


def _command(
    codec: str,
    pixel_format: str,
    size: tuple[int, int],
    rate: Fraction,
    options: dict[str, str],
    colour: ColourTags,
    pixel_aspect: Fraction,
) -> list[str]:
    accepted = layouts_of(codec) or []
    surface = [name for name in accepted if name in _UPLOAD and pixel_format not in accepted]
    layout = layout_for(pixel_format, list(INTERLEAVED) if surface else accepted)
    before, filters = [], [f"format={layout}"]
    for name in surface:
        before, upload = _UPLOAD[name]
        filters.append(upload)
    extra = [part for name, value in options.items() for part in (f"-{name}", value)]
    return [
        PROGRAM, "-hide_banner", "-loglevel", "error", *before,
        "-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{size[1]}x{size[0]}",
        "-r", str(rate), "-i", "pipe:0", "-vf", ",".join(filters), "-c:v", codec, *extra,
        "-bf", "0", "-flags", "+global_header", *_tags(codec, colour, pixel_aspect),
        "-f", "nut", "pipe:1",
    ]  # fmt: skip


def _tags(codec: str, colour: ColourTags, pixel_aspect: Fraction) -> Sequence[str]:
    """A filter that writes colours and pixel aspect into the stream, whatever the encoder does."""
    full = int(colour.full_range)
    if "264" in codec or "hevc" in codec or "265" in codec:
        name = "h264_metadata" if "264" in codec else "hevc_metadata"
        facts = {
            "colour_primaries": colour.primaries,
            "transfer_characteristics": colour.transfer,
            "matrix_coefficients": colour.matrix,
            "video_full_range_flag": full,
            "sample_aspect_ratio": str(pixel_aspect),
        }
    elif "av1" in codec:
        name = "av1_metadata"
        facts = {
            "color_primaries": colour.primaries,
            "transfer_characteristics": colour.transfer,
            "matrix_coefficients": colour.matrix,
            "color_range": "pc" if full else "tv",
        }
    else:
        return ()
    return "-bsf:v", f"{name}=" + ":".join(f"{key}={value}" for key, value in facts.items())
