"""Small clips made on the spot, each with the property that a test is about."""

import itertools
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

NTSC_FILM = Fraction(24000, 1001)


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth colour picture (uint8) that differs from frame to frame and has no symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 40 + 170 * x / width
    green = 200 - 150 * y / height
    blue = np.full_like(x, 30 + 12 * index)
    return np.stack([red, green, blue], -1).clip(0, 255).round().astype(np.uint8)


def write_clip(
    path: pathlib.Path,
    *,
    frames: int = 12,
    height: int = 48,
    width: int = 64,
    rate: Fraction = NTSC_FILM,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    matrix: int = 6,
    full_range: bool = False,
    primaries: int = 2,
    transfer: int = 2,
    rotation: int = 0,
    aspect: Fraction = Fraction(1),
    audio: str | None = None,
    audio_rate: int = 48000,
    layout: str = "stereo",
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    late: float = 0.0,
    muxer: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> pathlib.Path:
    """Encodes `picture` 0, 1, ... nearly without loss; `audio` names a codec, of ``layout``.

    ``late``: seconds after the audio at which the video begins. ``muxer``: its options.
    ``tags``: of the whole file.
    """
    time_base = time_base or 1 / rate
    with av.open(str(path), "w", container_options=muxer or {}) as container:
        container.metadata.update(tags or {})
        chosen = {"crf": "4"} if "26" in codec else {}
        if codec == "libx265":
            chosen["x265-params"] = "log-level=none"
        video = container.add_stream(codec, rate=rate, options=chosen | (options or {}))
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.time_base = video.codec_context.time_base = time_base
        context = video.codec_context
        context.colorspace, context.color_range = matrix, 2 if full_range else 1
        context.color_primaries, context.color_trc = primaries, transfer
        context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=audio_rate, layout=layout) if audio else None
        if sound:
            sound.bit_rate = 12200 if "amr" in str(audio) else 128000
        for index in range(frames):
            frame = yuv_frame(picture(index, height, width), pixel_format, matrix, full_range)
            frame.pts = (ticks[index] if ticks else index) + round(late / time_base)
            frame.time_base = time_base
            container.mux(video.encode(interlaced(frame) if "ildct" in str(options) else frame))
        container.mux(video.encode(None))
        if sound:
            write_tone(container, sound, late + float(frames / rate))
    return path


def film(path: pathlib.Path) -> pathlib.Path:
    """A Matroska file with two languages, subtitles, chapters, an attachment and tags."""
    with av.open(str(path), "w", container_options={"default_mode": "passthrough"}) as container:
        video = container.add_stream("libx264", rate=Fraction(25))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sounds = [container.add_stream(codec, rate=48000) for codec in ("aac", "ac3")]
        text = container.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        for stream, language, title in zip(
            (*sounds, text), ("eng", "jpn", "ger"), ("Main", "Commentary", "Full"), strict=True
        ):
            stream.metadata.update(language=language, title=title)
        sounds[1].disposition = av.stream.Disposition.default
        text.disposition = av.stream.Disposition.forced
        container.add_attachment("font.ttf", "font/ttf", b"letters")
        container.metadata.update(title="My Film", ARTIST="Me", MOOD="calm")
        second = {"time_base": Fraction(1, 1000)}
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 400, "metadata": {"title": "One"}, **second},
                {"id": 2, "start": 400, "end": 1000, "metadata": {"title": "Two"}, **second},
            ]
        )
        for index in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index))))
        container.mux(video.encode(None))
        for stream in sounds:
            write_tone(container, stream, 1.0)
        for number, words in enumerate((b"Hello", b"you")):
            packet = av.Packet(words)
            packet.pts = packet.dts = 100 + 400 * number
            packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), text
            container.mux(packet)
    return path


def trimmed(source: pathlib.Path, target: pathlib.Path, frames: int) -> pathlib.Path:
    """A clip of NTSC_FILM cut without encoding it anew: an edit list hides its first ``frames``."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.size:
                packet.pts -= frames * 1001
                packet.dts -= frames * 1001
                packet.stream = copy
                write.mux(packet)
    return target


def interlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The same frame, said to hold two fields, the top one first."""
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        ),
        graph.add("setfield", "mode=tff"),
        graph.add("buffersink"),
    ]
    for node, after in itertools.pairwise(nodes):
        node.link_to(after)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def write_tone(container, stream, seconds: float) -> None:
    """A 440 Hz tone of ``seconds``."""
    rate = stream.rate
    size = stream.codec_context.frame_size or 1024
    for start in itertools.count(0, size):
        if start >= seconds * rate:
            break
        tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(start, start + size) / rate)
        block = np.stack([tone, tone]).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, start
        frame.time_base = Fraction(1, rate)
        container.mux(stream.encode(frame))  # converted to what the encoder takes
    container.mux(stream.encode(None))


def yuv_frame(rgb: np.ndarray, pixel_format: str, matrix: int, full_range: bool) -> av.VideoFrame:
    """RGB to planar YUV by the definition of the matrices (H.273), without swscale."""
    red_weight, blue_weight = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    bits = 10 if "10" in pixel_format else 8
    red, green, blue = (rgb[..., i] / 255 for i in range(3))
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = ((blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight))
    scale = 2 ** (bits - 8)
    luma_span, offset, chroma_span = 219 * scale, 16 * scale, 224 * scale
    if full_range:
        luma_span, offset, chroma_span = 2**bits - 1, 0, 2**bits - 1
    planes = [luma * luma_span + offset, *(c * chroma_span + 128 * scale for c in chroma)]
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        if plane.width < values.shape[1]:  # 4:2:0; chroma sited left: average rows only
            values = (values[::2] + values[1::2])[:, ::2] / 2
        codes = values.round().astype(np.uint8 if bits == 8 else np.uint16)
        data = np.zeros((plane.height, plane.line_size), np.uint8)
        raw = np.ascontiguousarray(codes).view(np.uint8)
        data[:, : raw.shape[1]] = raw
        plane.update(data.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    return frame


def save_frames(
    folder: pathlib.Path, count: int, name: str = "frame_{:d}.png", start: int = 8, **size: int
) -> pathlib.Path:
    """Writes `picture` 0, 1, ... as images numbered from ``start`` on."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        Image.fromarray(picture(index, **size)).save(folder / name.format(start + index))
    return folder


class _Bits:
    """Bits of an H.264 NAL unit, written one syntax element at a time."""

    def __init__(self, header: int):
        self._header, self._bits = header, ""

    def u(self, value: int, count: int) -> "_Bits":
        self._bits += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> "_Bits":
        for value in values:
            code = f"{value + 1:b}"
            self._bits += "0" * (len(code) - 1) + code
        return self

    def samples(self, data: bytes) -> "_Bits":
        self._bits += "0" * (-len(self._bits) % 8) + "".join(f"{byte:08b}" for byte in data)
        return self

    def unit(self) -> bytes:
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        raw = int(bits, 2).to_bytes(len(bits) // 8, "big")
        body = bytearray()
        for byte in raw:
            if body[-2:] == b"\0\0" and byte < 4:
                body.append(3)
            body.append(byte)
        return b"\0\0\0\1" + bytes([self._header]) + bytes(body)


def field_coded_h264(frames: int) -> list[bytes]:
    """The fields of ``frames`` pictures of 32 x 32 in one access unit each (PAFF), all of them raw.

    FFmpeg has no encoder that makes such a stream. Top fields are grey 80, bottom fields 160.
    """
    sequence = _Bits(0x67).u(77, 8).u(0, 8).u(10, 8)  # Main profile
    sequence.ue(0, 0, 2, 1).u(0, 1).ue(1, 0).u(0, 1)  # 2 x 1 macroblocks a field, not frames only
    sequence.u(0, 1).u(1, 1).u(0, 2)
    parameters = _Bits(0x68).ue(0, 0).u(0, 1).u(0, 1).ue(0, 0, 0).u(0, 3)
    parameters.ue(0, 0, 0).u(0, 3)
    start = sequence.unit() + parameters.unit()
    units = []
    for number in range(frames):
        for bottom in (0, 1):
            field = _Bits(0x65).ue(0, 7, 0).u(0, 4)
            field.u(1, 1).u(bottom, 1).ue(number % 2)
            field.u(0, 2).ue(0)
            for _ in range(2):
                field.ue(25).samples(bytes([160 if bottom else 80]) * 256 + bytes([128]) * 128)
            units.append((b"" if bottom else start) + b"\0\0\0\1\x09\x10" + field.unit())
    return units
