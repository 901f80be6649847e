"""Colour of video: the tags a clip carries, and exact YUV <-> RGB in both directions.

Tags are the code points of ITU-T H.273. A clip is converted to RGB with its own matrix and range
and back with the same ones, so that colours do not shift; transfer and primaries are carried, never
converted. Invariant: a clip without a matrix tag gets the one that players assume for its size, and
the writer states it, because the assumption changes with the size.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from jaxtyping import UInt8, UInt16

from skipsr_jax.errors import UserError
from skipsr_jax.media.yuv_format import LUMA_WEIGHTS, code_scales, yuv_format

RgbFrame = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]
"""An RGB picture of 0..255 (uint8) or 0..65535 (uint16)."""

UNSPECIFIED = 2  # the H.273 code of every tag that is not set
BT709 = 1
BT601_525 = 6
_RGB = 0
_SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # H.273 matrix -> libswscale's SWS_CS_*
_PLANAR_444 = {8: "yuv444p", 10: "yuv444p10le", 12: "yuv444p12le", 16: "yuv444p16le"}  # by bits
_HD_HEIGHT, _HD_WIDTH = 720, 1280  # from this size on, players take an untagged clip for BT.709
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""How swscale converts and scales: slower, and without rounding errors that add up."""


@dataclasses.dataclass(frozen=True)
class ColourTags:
    """H.273 code points: primaries, transfer, matrix; and whether codes span the full range."""

    primaries: int = BT709
    transfer: int = BT709
    matrix: int = BT709
    full_range: bool = False


_DNXHD_MATRICES = (1, 9)  # its header states no others, and players take them for BT.709
_STATE_FULL_RANGE = ("264", "265", "hevc", "av1", "vp9", "ffv1")  # of ffv1 the container does
_STATE_MATRIX = (*_STATE_FULL_RANGE, "mpeg2", "prores", "dnxh")
_JPEG_MATRIX = 5  # BT.601, full range: JFIF has no other
SRGB_VIDEO = ColourTags()  # what images and RGB clips become when they are written as YUV


def tags_of(frame: av.VideoFrame) -> ColourTags:
    """The tags of a decoded frame, with the matrix and the range made definite.

    RGB frames (and the rare matrix "identity") become BT.709 limited: what a writer makes of them.
    Raises UserError for matrices that swscale does not know.
    """
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if frame.format.is_rgb or int(frame.colorspace) == _RGB:
        return ColourTags(
            BT709 if primaries == UNSPECIFIED else primaries,
            BT709 if transfer == UNSPECIFIED else transfer,
        )
    matrix = int(frame.colorspace)
    if matrix == UNSPECIFIED:
        matrix = _assumed_matrix(frame.height, frame.width)
    if matrix not in _SWSCALE_MATRIX:
        raise UserError(
            f"colour matrix {matrix} (H.273) is not supported; convert the clip to BT.709 or "
            "BT.2020 non-constant luminance first"
        )
    stated = int(frame.color_range)
    full = stated == ColorRange.JPEG or (
        stated == ColorRange.UNSPECIFIED and frame.format.name.startswith(("yuvj", "gray"))
    )
    return ColourTags(primaries, transfer, matrix, full)


def storable_tags(tags: ColourTags, codec: str, height: int, width: int) -> ColourTags:
    """The tags nearest to ``tags`` that the stream of an encoder states, or that players take it to
    have, by its size in pixels, where it states none."""

    def is_of(names: Sequence[str]) -> bool:
        return any(name in codec for name in names)

    matrix, full = tags.matrix, tags.full_range and is_of(_STATE_FULL_RANGE)
    if codec == "dnxhd" and matrix not in _DNXHD_MATRICES:
        matrix = BT709
    elif "mjpeg" in codec:
        matrix, full = _JPEG_MATRIX, True
    elif not is_of(_STATE_MATRIX):
        matrix = _assumed_matrix(height, width)
    return dataclasses.replace(tags, matrix=matrix, full_range=full)


def tags_within(frame: av.VideoFrame, clip: ColourTags) -> ColourTags:
    """The tags of a frame in the middle of a clip: those of the clip, unless it states others."""
    if int(frame.colorspace) in (UNSPECIFIED, _RGB, clip.matrix):
        matrix = clip.matrix
    else:
        matrix = tags_of(frame).matrix
    full = clip.full_range
    if int(frame.color_range) != ColorRange.UNSPECIFIED:
        full = int(frame.color_range) == ColorRange.JPEG
    return dataclasses.replace(clip, matrix=matrix, full_range=full)


def bit_depth_of(pixel_format: av.VideoFormat) -> int:
    """The most bits of a component, 8 at least."""
    return max(8, *(component.bits for component in pixel_format.components))


def to_rgb(frame: av.VideoFrame, tags: ColourTags, reformatter: VideoReformatter) -> RgbFrame:
    """A decoded frame as RGB (h, w, 3): uint8 from 8-bit sources, else uint16 on the 16-bit scale.

    Args:
      frame: any pixel format; its matrix and range are set to those of ``tags``.
      tags: what its codes mean; of RGB frames nothing is used.
      reformatter: one for each clip, so that swscale's tables are made once.
    """
    bits = bit_depth_of(frame.format)
    if frame.format.is_rgb or int(frame.colorspace) == _RGB:
        target = "rgb24" if bits == 8 else "rgb48le"
        return reformatter.reformat(
            frame, format=target, interpolation=EXACT, dst_color_range=ColorRange.JPEG
        ).to_ndarray()
    if frame.format.name.startswith("gray"):  # swscale makes greys of 16 bits 0.4 % too bright
        scale, _ = code_scales(bits, tags.full_range)
        top = 255 if bits == 8 else 65535
        grey = (planes_of(frame)[0].astype(np.float32) - scale.zero) / scale.span
        return np.repeat(_codes(grey * top, top)[..., None], 3, axis=-1)
    frame.colorspace = tags.matrix
    frame.color_range = ColorRange.JPEG if tags.full_range else ColorRange.MPEG
    if _swscale_is_unbiased(bits, tags):
        return reformatter.reformat(
            frame, format="rgb24", interpolation=EXACT, dst_color_range=ColorRange.JPEG
        ).to_ndarray()
    bits = next(depth for depth in _PLANAR_444 if depth >= bits)
    planar = reformatter.reformat(
        frame,
        format=_PLANAR_444[bits],
        interpolation=EXACT,
        src_color_range=frame.color_range,
        dst_color_range=frame.color_range,
    )
    luma, blue_difference, red_difference = (
        plane.astype(np.float32) for plane in planes_of(planar)
    )
    luma_scale, chroma_scale = code_scales(bits, tags.full_range)
    red_weight, blue_weight = LUMA_WEIGHTS[tags.matrix]
    grey = (luma - luma_scale.zero) / luma_scale.span
    chroma_unit = 2 / chroma_scale.span
    red = grey + (red_difference - chroma_scale.zero) * ((1 - red_weight) * chroma_unit)
    blue = grey + (blue_difference - chroma_scale.zero) * ((1 - blue_weight) * chroma_unit)
    green = (grey - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    top = 255 if bits == 8 else 65535
    return np.stack([_codes(channel * top, top) for channel in (red, green, blue)], axis=-1)


def to_8_bits(rgb: RgbFrame) -> UInt8[np.ndarray, "h w 3"]:
    """A frame of the 16-bit scale (0..65535) rounded to 8 bits (0..255); 8-bit frames as is."""
    if rgb.dtype == np.uint8:
        return rgb
    return ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)


def from_rgb(
    rgb: RgbFrame, tags: ColourTags, pixel_format: str, alpha: np.ndarray | None = None
) -> av.VideoFrame:
    """An RGB array as a frame of ``pixel_format`` (one of PIXEL_FORMATS) that carries ``tags``.

    ``alpha``: the codes of the fourth plane, where the format has one.

    Chroma is sited left, where decoders of H.264, H.265, VP9 and AV1 expect it when nothing is
    stated: on even columns, weights 1/4 1/2 1/4, and between two rows.
    """
    target = yuv_format(pixel_format, tags.matrix, tags.full_range)
    weights = (target.red, 1 - target.red - target.blue, target.blue)
    unit = np.float32(1 / np.iinfo(rgb.dtype).max)
    channels = [rgb[..., channel].astype(np.float32) * unit for channel in range(3)]
    luma = _weighted(channels, weights)
    values = [luma * target.luma.span + target.luma.zero]
    if target.half_width or target.half_height:
        halves = (target.half_width, target.half_height)
        channels = [_subsampled(channel, *halves) for channel in channels]
        luma = _weighted(channels, weights)
    for channel, weight in ((channels[2], target.blue), (channels[0], target.red)):
        scale = target.chroma.span / (2 * (1 - weight))
        values.append((channel - luma) * scale + target.chroma.zero)
    planes = [_codes(plane, 2**target.bits - 1) for plane in values]
    planes += [] if alpha is None else [alpha]
    return frame_of_planes(planes, tags, pixel_format)


def frame_of_planes(
    planes: Sequence[np.ndarray], tags: ColourTags, pixel_format: str
) -> av.VideoFrame:
    """Codes as a frame of ``pixel_format`` that carries ``tags``.

    Args:
      planes: luma (h, w), two chroma planes of the sizes that the format wants, and alpha where it
        has that; uint8 for 8 bits, else uint16.
      tags: what the codes mean.
      pixel_format: one of PIXEL_FORMATS.
    """
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, codes in zip(frame.planes, planes, strict=True):
        rows = np.ascontiguousarray(codes).view(np.uint8)
        if plane.line_size != rows.shape[1]:
            rows = np.pad(rows, ((0, 0), (0, plane.line_size - rows.shape[1])))
        plane.update(rows)
    apply_tags(frame, tags)
    return frame


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """The codes of a planar frame, one array (h, w) a plane: uint8 for 8 bits, else uint16."""
    wide = ">u2" if frame.format.is_big_endian else "<u2"
    kind = np.dtype(np.uint8 if bit_depth_of(frame.format) == 8 else wide)
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        planes.append(np.ascontiguousarray(rows[:, : plane.width * kind.itemsize]).view(kind))
    return planes


def apply_tags(target: Any, tags: ColourTags) -> None:
    """Sets the tags on a frame or a codec context (both carry the same four attributes)."""
    target.colorspace = tags.matrix
    target.color_range = ColorRange.JPEG if tags.full_range else ColorRange.MPEG
    target.color_primaries = tags.primaries
    target.color_trc = tags.transfer


def _assumed_matrix(height: int, width: int) -> int:
    """The matrix that players take for an untagged clip of a size."""
    return BT709 if height >= _HD_HEIGHT or width >= _HD_WIDTH else BT601_525


def _swscale_is_unbiased(bits: int, tags: ColourTags) -> bool:
    """Whether swscale can be trusted to make RGB; it is many times faster than NumPy.

    Measured on random colours: at 8 bits and limited range its mean error is 0.01 of a code; its
    16-bit RGB is 0.4 % too dark (a factor 256 for 257), and so is its full range at 10 bits.
    """
    return bits == 8 and not tags.full_range


def _weighted(channels: list[np.ndarray], weights: tuple[float, ...]) -> np.ndarray:
    total = channels[0] * weights[0]
    total += channels[1] * weights[1]
    total += channels[2] * weights[2]
    return total


def _subsampled(channel: np.ndarray, half_width: bool, half_height: bool) -> np.ndarray:
    """Half the columns, sited on the even ones, and half the rows, sited between two."""
    if half_height:
        channel = (channel[::2] + channel[1::2]) / 2
    if half_width:
        left = np.concatenate([channel[:, :1], channel[:, 1:-1:2]], axis=1)
        channel = channel[:, ::2] / 2 + (left + channel[:, 1::2]) / 4
    return channel


def _codes(values: np.ndarray, top: int) -> np.ndarray:
    """Values rounded to the codes 0..top."""
    return np.clip(values + 0.5, 0, top).astype(np.uint8 if top <= 255 else np.uint16)
