"""The loss of compressed files, made in memory: JPEG frame by frame; H.264, HEVC, MPEG-4 over time.

Encoders run on one thread with fixed settings: a clip and a quality always give the same bytes.
Invariant: a clip comes back with the number and the size of its frames.
"""

import io
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from PIL import Image

from skipsr_jax.geometry import pad_to
from skipsr_jax.types import HostArray, UInt8

VideoCodec = Literal["h264", "hevc", "mpeg4"]
VIDEO_CODECS: tuple[VideoCodec, ...] = ("h264", "hevc", "mpeg4")

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "mpeg4": "mpeg4"}
# The macroblock tree of x264 and larger coding blocks of x265 read unset memory in small pictures:
# the same clip then comes out differently now and then. The tree of x265 writes beyond its memory
# in pictures that are 33 to 48 pixels wide, which may end the process.
_PARAMS = {
    "h264": {"x264-params": "mbtree=0"},
    "hevc": {"x265-params": "log-level=none:pools=none:frame-threads=1:ctu=16:cutree=0"},
}
_TICK = Fraction(1, 25)  # any rate: quality is constant, not the bit rate
_SMALLEST = 32  # pixels: HEVC encodes no smaller side


def jpeg(frames: UInt8[HostArray, "f h w 3"], quality: int) -> UInt8[HostArray, "f h w 3"]:
    """Each frame through JPEG with halved chroma. ``quality`` from 1 (worst) to 95."""
    decoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            decoded.append(np.asarray(image))
    return np.stack(decoded)


def _options(codec: VideoCodec, quality: int) -> dict[str, str]:
    if codec == "mpeg4":
        return {"qmin": str(quality), "qmax": str(quality)}
    return {"crf": str(quality), "preset": "veryfast"} | _PARAMS[codec]


def compress(
    frames: UInt8[HostArray, "f h w 3"], codec: VideoCodec, quality: int
) -> UInt8[HostArray, "f h w 3"]:
    """The clip encoded and decoded, 8 bits with halved chroma.

    ``quality``: the constant rate factor of h264 and hevc, 0 (best) to 51; the quantizer of mpeg4,
    1 (best) to 31. Raises ValueError when it is outside.
    """
    best, worst = (1, 31) if codec == "mpeg4" else (0, 51)
    if not best <= quality <= worst:
        raise ValueError(f"{codec} takes a quality from {best} to {worst}, not {quality}")
    _, height, width, _ = frames.shape
    # Halved chroma needs even sides.
    padded = pad_to(frames, *(max(_SMALLEST, side + side % 2) for side in (height, width)))
    encoder = av.CodecContext.create(_ENCODERS[codec], "w")
    encoder.height, encoder.width, encoder.pix_fmt = *padded.shape[1:3], "yuv420p"
    encoder.time_base, encoder.framerate = _TICK, 1 / _TICK
    encoder.thread_count = 1
    encoder.options = _options(codec, quality)
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    packets = []
    for time, frame in enumerate(padded):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = time, _TICK
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoded = [picture for packet in packets for picture in decoder.decode(packet)]
    decoded += decoder.decode(None)
    out = np.stack([picture.to_ndarray(format="rgb24") for picture in decoded])
    if len(out) != len(frames):
        raise RuntimeError(f"{codec} gave {len(out)} of {len(frames)} frames back")
    return out[:, :height, :width]
