"""Colour of video: the tags a clip carries, and exact YUV <-> RGB in both directions.

Tags are the code points of ITU-T H.273. A clip is converted to RGB with its own matrix and range
and back with the same ones, so that colours do not shift; transfer and primaries are carried, never
converted. Invariant: a clip without a matrix tag gets the one that players assume for its size, and
the writer states it, because the assumption changes with the size.
"""

import dataclasses
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from jaxtyping import UInt8, UInt16

from skipsr_jax.errors import UserError

RgbFrame = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]

UNSPECIFIED = 2  # the H.273 code of every tag that is not set
BT709 = 1
BT601_525 = 6
_RGB = 0
_SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # H.273 matrix -> libswscale's SWS_CS_*
_HD_HEIGHT, _HD_WIDTH = 720, 1280  # from this size on, players take an untagged clip for BT.709
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclasses.dataclass(frozen=True)
class ColourTags:
    """H.273 code points: primaries, transfer, matrix; and whether codes span the full range."""

    primaries: int = BT709
    transfer: int = BT709
    matrix: int = BT709
    full_range: bool = False


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
        hd = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
        matrix = BT709 if hd else BT601_525
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


def bit_depth_of(pixel_format: av.VideoFormat) -> int:
    """Bits per component, 8 at least."""
    return max(8, *(component.bits for component in pixel_format.components))


def to_rgb(frame: av.VideoFrame, tags: ColourTags, reformatter: VideoReformatter) -> RgbFrame:
    """A decoded frame as RGB: uint8 from 8-bit sources, else uint16 on the full 16-bit scale."""
    if not (frame.format.is_rgb or int(frame.colorspace) == _RGB):
        frame.colorspace = tags.matrix
        frame.color_range = ColorRange.JPEG if tags.full_range else ColorRange.MPEG
    target = "rgb24" if bit_depth_of(frame.format) == 8 else "rgb48le"
    rgb = reformatter.reformat(
        frame, format=target, interpolation=_EXACT, dst_color_range=ColorRange.JPEG
    )
    return rgb.to_ndarray()


def from_rgb(
    rgb: RgbFrame, tags: ColourTags, pixel_format: str, reformatter: VideoReformatter
) -> av.VideoFrame:
    """An RGB array as a frame of ``pixel_format`` that carries ``tags``."""
    source = "rgb24" if rgb.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format=source)
    frame.color_range = ColorRange.JPEG
    if av.VideoFormat(pixel_format).is_rgb:
        out = reformatter.reformat(frame, format=pixel_format, dst_color_range=ColorRange.JPEG)
    else:
        out = reformatter.reformat(
            frame,
            format=pixel_format,
            interpolation=_EXACT,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if tags.full_range else ColorRange.MPEG,
            dst_colorspace=_SWSCALE_MATRIX[tags.matrix],
        )
    apply_tags(out, tags, pixel_format)
    return out


def apply_tags(target: Any, tags: ColourTags, pixel_format: str) -> None:
    """Sets the tags on a frame or a codec context (both carry the same four attributes)."""
    rgb = av.VideoFormat(pixel_format).is_rgb
    target.colorspace = _RGB if rgb else tags.matrix
    target.color_range = ColorRange.JPEG if rgb or tags.full_range else ColorRange.MPEG
    target.color_primaries = tags.primaries
    target.color_trc = tags.transfer
