"""How a video is compressed: the user's settings, their defaults, and what an encoder can take.

Invariant: what leaves `resolved` has every field filled in and can store the frame size.
"""

import dataclasses

import av

from skipsr_jax.errors import UserError
from skipsr_jax.media.yuv_format import PIXEL_FORMATS

_CODECS = {8: "libx264", 10: "libx265"}  # by bit depth
_WEBM_CODECS = {8: "libvpx-vp9", 10: "libsvtav1"}  # PyAV's libvpx is built for 8 bits
_CRF = {"libx264": 14, "libx265": 15, "libvpx-vp9": 18, "libsvtav1": 20}  # near transparent
X265_LEAST = 64
"""Pixels of the longer side: in smaller frames x265 writes past its buffers and may abort."""
# Fast presets at lower rate factors: on 16 cores libx264 writes 270 frames/s of 720p, where medium
# at 16 writes 103, with 0.4 dB more and in files a quarter larger (docs/performance.md).
_PRESET = {"libx264": "veryfast", "libx265": "superfast", "libsvtav1": "6"}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a video is compressed; None takes the default.

    codec: an encoder's name in FFmpeg. Default: libx264 for 8 bits, libx265 for 10; in .webm
      libvpx-vp9 and libsvtav1.
    crf: constant quality, 0 (lossless) to 51 or 63 by codec. Default: 14 to 20 by codec.
    preset: the encoder's speed, for codecs that have presets. Default: veryfast for
      libx264, superfast for libx265.
    pixel_format: default yuv420p or yuv420p10le; yuv444p(10le) when a side is odd, because 4:2:0
      stores chroma for pairs of rows and columns.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pixel_format: str | None = None


def resolved(encoding: Encoding, extension: str, depth: int, height: int, width: int) -> Encoding:
    """The encoding with every default filled in, and checked against the frame size."""
    if depth not in (8, 10):
        raise UserError(f"bit_depth {depth} cannot be written; choose 8 or 10")
    webm, odd = extension == ".webm", bool(height % 2 or width % 2)
    codec = encoding.codec or (_WEBM_CODECS if webm else _CODECS)[depth]
    if codec == "libx265" and max(height, width) < X265_LEAST:
        if encoding.codec:
            raise UserError(
                f"libx265 cannot encode {width}x{height}: one side needs {X265_LEAST} pixels; "
                "choose libx264"
            )
        codec = "libx264"
    layout = "yuv444p" if odd else "yuv420p"
    pixel_format = encoding.pixel_format or (layout if depth == 8 else f"{layout}10le")
    try:
        known = av.Codec(codec, "w").video_formats or ()
    except ValueError as error:
        raise UserError(f"there is no video encoder {codec} ({error})") from error
    names = [each.name for each in known if each.name in PIXEL_FORMATS] or list(PIXEL_FORMATS)
    if pixel_format not in names:
        raise UserError(f"{codec} cannot store {pixel_format}; choose from {', '.join(names)}")
    half_width, half_height, _ = PIXEL_FORMATS[pixel_format]
    if odd and (half_width or half_height):
        raise UserError(f"{pixel_format} needs even sizes; choose yuv444p or an even output size")
    return Encoding(
        codec,
        encoding.crf if encoding.crf is not None else _CRF.get(codec),
        encoding.preset or _PRESET.get(codec),
        pixel_format,
    )


def encoder_options(encoding: Encoding) -> dict[str, str]:
    """A resolved encoding as FFmpeg's options."""
    options = {}
    if encoding.crf is not None:
        options["crf"] = str(encoding.crf)
    if encoding.preset is not None:
        options["preset"] = encoding.preset
    if encoding.codec == "libx265":
        options["x265-params"] = "log-level=none"
    if encoding.codec == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1"}  # b=0: crf alone rules
    return options
