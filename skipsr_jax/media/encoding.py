"""How a video is compressed: the user's settings, their defaults, and what an encoder can take.

Invariant: what leaves `resolved` has every field filled in and can store the frame size.
"""

import dataclasses
import functools
import pathlib

import av

from skipsr_jax.errors import UserError
from skipsr_jax.media import ffmpeg_pipe
from skipsr_jax.media.hardware_encoders import interface, needs, planar, quality_options
from skipsr_jax.media.hdr import Hdr
from skipsr_jax.media.hdr import encoder_options as hdr_options
from skipsr_jax.media.outputs import write_error
from skipsr_jax.media.yuv_format import PIXEL_FORMATS, has_alpha

_CODECS = {8: "libx264", 10: "libx265"}  # by bit depth
_WEBM_CODECS = {8: "libvpx-vp9", 10: "libsvtav1"}  # PyAV's libvpx is built for 8 bits
_CRF = {"libx264": 14, "libx265": 15, "libvpx-vp9": 18, "libsvtav1": 20}  # near transparent
_CRF_LIMIT = {"libx264": 51, "libx265": 51}  # which they clip to without a word; others have 63
_ALPHA_EXTENSIONS = (".mov", ".mkv", ".webm")
_X265_LEAST = 64  # pixels of the longer side
_X265_WIDTHS = range(33, 49)
_DNXHD_LEAST = (256, 120)  # pixels: width, height
# Fast presets at lower rate factors: on 16 cores libx264 writes 270 frames/s of 720p, where medium
# at 16 writes 103, with 0.4 dB more and in files a quarter larger (docs/performance.md).
_PRESET = {"libx264": "veryfast", "libx265": "superfast", "libsvtav1": "6"}
_SUPERFAST_X265 = {"b-adapt": "0", "ctu": "32"}
"""What makes x265's preset superfast faster by an eighth on 16 cores, at the same size and PSNR."""

_WITHOUT_AVX512 = "AVX2,FMA3,BMI2,LZCNT"
"""What x264 may use: its macroblock tree reads memory that nothing was written to where it uses
AVX-512, and gives another file each time. It is no slower without (12 frames of 720p: 0.75 s of
processor time against 0.76)."""
_CPUINFO = pathlib.Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a video is compressed; None takes the default.

    codec: an encoder's name in FFmpeg, of PyAV's or of the one on the PATH. Default: libx264 for 8
      bits, libx265 for 10; in .webm libvpx-vp9 and libsvtav1; for frames with alpha prores_ks in
      .mov and libvpx-vp9 in .webm.
    crf: constant quality, 0 (lossless) to 51 or 63 by codec. Default: 14 to 20 by codec. For
      encoders in hardware it is the number that they have in its place.
    preset: the encoder's speed, for codecs that have presets. Default: veryfast for
      libx264, superfast for libx265.
    pixel_format: default yuv420p or yuv420p10le, or what the codec has instead; yuv444p(10le) when
      a side is odd, because 4:2:0 stores chroma for pairs of rows and columns.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pixel_format: str | None = None


def x265_encodes(height: int, width: int) -> bool:
    """Whether x265 can encode frames of this size.

    In small frames it writes past its buffers and may abort; its macroblock tree (cutree) does so
    at widths of 33 to 48 pixels, whatever the height.
    """
    return max(height, width) >= _X265_LEAST and width not in _X265_WIDTHS


def resolved(
    encoding: Encoding, extension: str, depth: int, height: int, width: int, alpha: bool = False
) -> Encoding:
    """The encoding with every default filled in, and checked against the frame size.

    ``alpha``: whether frames have alpha; the pixel format then has it too where the codec can.
    """
    if depth not in (8, 10):
        raise UserError(f"bit_depth {depth} cannot be written; choose 8 or 10")
    odd = bool(height % 2 or width % 2)
    codec = encoding.codec or _default_codec(extension, depth, alpha)
    if codec == "libx265" and not x265_encodes(height, width):
        if encoding.codec:
            raise UserError(
                f"libx265 cannot encode {width}x{height}: it needs a width of at most "
                f"{_X265_WIDTHS[0] - 1} or more than {_X265_WIDTHS[-1]} pixels, and one side of "
                f"{_X265_LEAST}; choose libx264"
            )
        codec = "libx264"
    names = storable(codec)
    pixel_format = encoding.pixel_format or _default_format(names, depth, odd, alpha)
    if pixel_format not in names:
        raise UserError(f"{codec} cannot store {pixel_format}; choose from {', '.join(names)}")
    half_width, half_height, _ = PIXEL_FORMATS[pixel_format]
    if odd and (half_width or half_height):
        raise UserError(f"{pixel_format} needs even sizes; choose yuv444p or an even output size")
    if encoding.crf is not None and not (interface(codec) or _takes(codec, "crf")):
        raise UserError(f"{codec} has no constant rate factor: leave out config.output.crf")
    limit = _CRF_LIMIT.get(codec, 63)
    if (encoding.crf or 0) > limit:
        raise UserError(
            f"config.output.crf is {encoding.crf}: it must be from 0 to {limit} for {codec}"
        )
    if codec == "dnxhd" and (width < _DNXHD_LEAST[0] or height < _DNXHD_LEAST[1]):
        least = "x".join(map(str, _DNXHD_LEAST))
        raise UserError(
            f"dnxhd cannot encode {width}x{height}: it needs at least {least} pixels; choose "
            "another codec, such as prores_ks, or a larger result"
        )
    return Encoding(
        codec,
        encoding.crf if encoding.crf is not None else _CRF.get(codec),
        encoding.preset or _PRESET.get(codec),
        pixel_format,
    )


def storable(codec: str) -> list[str]:
    """The pixel formats, of those that can be written, that an encoder takes.

    Raises UserError when there is no such encoder, or it takes none of them.
    """
    known = layouts(codec)
    if not known:
        return list(PIXEL_FORMATS)
    names = [name for each in known for name in planar(each) if name in PIXEL_FORMATS]
    if codec == "libx265":  # it lists formats with alpha, and its streams with alpha are refused
        names = [name for name in names if not has_alpha(name)]
    if not names:
        stored = ", ".join(known)
        raise UserError(f"{codec} stores {stored}, none of which is written here; choose another")
    return list(dict.fromkeys(names))


def layouts(codec: str) -> list[str]:
    """The layouts of frames that an encoder takes, in FFmpeg's words; empty: it does not say.

    Raises UserError when neither PyAV nor the machine's ffmpeg has the encoder.
    """
    if in_pyav(codec):
        return [each.name for each in av.Codec(codec, "w").video_formats or ()]
    found = ffmpeg_pipe.layouts_of(codec)
    if found is None:
        raise UserError(
            f"there is no video encoder {codec}: neither PyAV's FFmpeg nor an ffmpeg on the PATH "
            "has it"
        )
    return found


def in_pyav(codec: str) -> bool:
    """Whether PyAV has an encoder; else the machine's ffmpeg may have it."""
    try:
        return av.Codec(codec, "w").type == "video"
    except ValueError:
        return False


def keeps_alpha(encoding: Encoding, extension: str, depth: int) -> bool:
    """Whether frames with alpha are stored with it."""
    codec = encoding.codec or _default_codec(extension, depth, alpha=True)
    if encoding.pixel_format:
        return has_alpha(encoding.pixel_format)
    return extension in _ALPHA_EXTENSIONS and any(map(has_alpha, storable(codec)))


def encoder_options(encoding: Encoding, hdr: Hdr | None = None) -> dict[str, str]:
    """A resolved encoding as FFmpeg's options, with the metadata of ``hdr`` where it can be."""
    options, codec = {}, encoding.codec or ""
    if encoding.crf is not None:
        options["crf"] = str(encoding.crf)
    if encoding.preset is not None:
        options["preset"] = encoding.preset
    if interface(codec):
        options.pop("crf", None)
        options |= quality_options(codec, encoding.crf)
    own = {"log-level": "none"} if codec == "libx265" else {}
    if codec == "libx265" and encoding.preset == _PRESET[codec]:
        own |= _SUPERFAST_X265
    if codec == "libx264" and has_avx512():
        own["asm"] = _WITHOUT_AVX512
    if hdr:
        own |= hdr_options(hdr, codec) or {}
    if own:
        name = {"libx265": "x265-params", "libx264": "x264-params"}.get(codec, "svtav1-params")
        options[name] = ":".join(f"{key}={value}" for key, value in own.items())
    if codec == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1"}  # b=0: crf alone rules
    if codec == "dnxhd":  # the profiles that take any size
        layout, bits = encoding.pixel_format, PIXEL_FORMATS[encoding.pixel_format or ""][2]
        quality = "dnxhr_hq" if bits == 8 else "dnxhr_hqx"
        options["profile"] = "dnxhr_444" if layout == "yuv444p10le" else quality
    return options


def encoding_error(
    path: pathlib.Path, encoding: Encoding, error: av.FFmpegError | OSError
) -> UserError:
    """One line for a file that cannot be begun, or a frame that cannot be encoded."""
    codec = encoding.codec or ""
    if needs(codec) and "avcodec_" in str(error):  # the encoder's own, though it may be an OSError
        return UserError(f"cannot encode {path} with {codec} here: {needs(codec)}")
    if isinstance(error, OSError):
        return write_error(path, error)
    return UserError(
        f"cannot encode {path} with {codec}, {encoding.pixel_format}, crf {encoding.crf}: {error}"
    )


@functools.cache
def has_avx512() -> bool:
    """Whether the machine's processor has the instructions AVX-512, as far as Linux says."""
    try:
        return "avx512" in _CPUINFO.read_text()
    except OSError:
        return False


def _default_codec(extension: str, depth: int, alpha: bool) -> str:
    if alpha and extension == ".mov":
        return "prores_ks"
    if alpha and extension == ".webm":
        return "libvpx-vp9"
    return (_WEBM_CODECS if extension == ".webm" else _CODECS)[depth]


def _default_format(names: list[str], depth: int, odd: bool, alpha: bool) -> str:
    """The smallest format of a codec that loses nothing, else the one that loses least."""

    def cost(name: str) -> tuple:
        half_width, half_height, bits = PIXEL_FORMATS[name]
        halves = half_width + half_height
        return (
            has_alpha(name) != (alpha and any(map(has_alpha, names))),
            odd and halves > 0,
            max(0, depth - bits),
            bits,
            -halves,
        )

    return min(names, key=cost)


def _takes(codec: str, option: str) -> bool:
    """Whether an encoder has an option of its own of this name."""
    if not in_pyav(codec):
        return True  # it says so itself if not
    options = av.CodecContext.create(codec, "w").supported_options.private
    return any(each.name == option for each in options)
