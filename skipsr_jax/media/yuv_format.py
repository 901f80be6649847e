"""How the codes of a YUV frame stand for colours: the numbers that a conversion needs.

``media.colour.from_rgb`` converts on the host and ``pixels.yuv`` on the device; both read these
numbers, so that they agree. Source: ITU-T H.273, equations 23 to 28.
"""

from typing import NamedTuple

from skipsr_jax.errors import UserError

LUMA_WEIGHTS = {  # of red and of blue in luma, by H.273 matrix
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
PIXEL_FORMATS = {  # what can be written: (chroma has half the width, half the height, bits)
    f"{planes}{layout}p{suffix}": (layout != "444", layout == "420", bits)
    for planes in ("yuv", "yuva")
    for layout in ("420", "422", "444")
    for suffix, bits in (("", 8), ("10le", 10), ("12le", 12))
    if (planes, layout, bits) != ("yuva", "420", 12)
}


def has_alpha(pixel_format: str) -> bool:
    """Whether a format (a key of PIXEL_FORMATS) has a fourth plane, of alpha."""
    return pixel_format.startswith("yuva")


class CodeScale(NamedTuple):
    """value = (code - zero) / span. Luma is 0 to 1, chroma -0.5 to 0.5."""

    zero: int
    span: int


def code_scales(bits: int, full_range: bool) -> tuple[CodeScale, CodeScale]:
    """The scales of luma and of chroma for codes of ``bits`` bits."""
    if full_range:
        top = 2**bits - 1
        return CodeScale(0, top), CodeScale(2 ** (bits - 1), top)
    step = 2 ** (bits - 8)
    return CodeScale(16 * step, 219 * step), CodeScale(128 * step, 224 * step)


class YuvFormat(NamedTuple):
    """Everything that turns RGB into the planes of one pixel format.

    Attributes:
      red, blue: weights of the channels in luma; green has the rest.
      luma, chroma: scales of the codes.
      half_width, half_height: chroma has half the columns, sited on the even ones; half the rows,
        sited between two.
      bits: 8, 10 or 12; codes are uint8 for 8, else uint16.
    """

    red: float
    blue: float
    luma: CodeScale
    chroma: CodeScale
    half_width: bool
    half_height: bool
    bits: int


def yuv_format(pixel_format: str, matrix: int, full_range: bool) -> YuvFormat:
    """The numbers of a pixel format (a key of PIXEL_FORMATS) with an H.273 matrix and a range.

    Raises UserError for a matrix that luma weights are not known for.
    """
    half_width, half_height, bits = PIXEL_FORMATS[pixel_format]
    if matrix not in LUMA_WEIGHTS:
        raise UserError(f"colour matrix {matrix} (H.273) is not supported")
    red, blue = LUMA_WEIGHTS[matrix]
    luma, chroma = code_scales(bits, full_range)
    return YuvFormat(red, blue, luma, chroma, half_width, half_height, bits)
