"""Alpha, the opacity of pixels: apart from the colours, or laid on a black ground.

Invariant: alpha has the dtype of the colours, and its greatest value is opaque. Colours that are
kept beside alpha are not multiplied by it.
"""

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from skipsr_jax.media.colour import EXACT, RgbFrame, bit_depth_of, planes_of
from skipsr_jax.media.resize import upscale
from skipsr_jax.types import HostArray


def on_black(rgb: RgbFrame, alpha: HostArray) -> RgbFrame:
    """A picture (h, w, 3) with alpha (h, w) of the same dtype, laid on a black ground."""
    top = np.iinfo(rgb.dtype).max
    product = rgb.astype(np.uint32) * alpha[..., None] + top // 2
    return (product // top).astype(rgb.dtype)


def opaque(rgb: RgbFrame) -> HostArray:
    """The alpha (h, w) of a picture without transparent pixels."""
    return np.full(rgb.shape[:2], np.iinfo(rgb.dtype).max, rgb.dtype)


def is_opaque(alpha: HostArray) -> bool:
    """Whether no pixel is transparent."""
    return bool(alpha.min() == np.iinfo(alpha.dtype).max)


def format_has_alpha(pixel_format: av.VideoFormat) -> bool:
    """Whether pixels of a format can be transparent."""
    return any(component.is_alpha for component in pixel_format.components)


def alpha_of(frame: av.VideoFrame, reformatter: VideoReformatter) -> HostArray:
    """The alpha (h, w) of a decoded frame: uint8 from 8-bit sources, else uint16."""
    deep = bit_depth_of(frame.format) > 8
    if not format_has_alpha(frame.format):  # in the middle of a clip that has
        kind = np.uint16 if deep else np.uint8
        return np.full((frame.height, frame.width), np.iinfo(kind).max, kind)
    if frame.format.name.startswith(("yuva", "gbrap")):  # swscale makes opaque ones 0.1 % less
        codes = planes_of(frame)[3]
        most = 2 ** frame.format.components[3].bits - 1
        return np.rint(codes * (65535 / most)).astype(np.uint16) if deep else codes
    name = "rgba64le" if deep else "rgba"
    rgba = reformatter.reformat(frame, format=name, interpolation=EXACT).to_ndarray()
    return np.ascontiguousarray(rgba[..., 3])


def upscaled_alpha(alpha: HostArray, size: tuple[int, int]) -> HostArray:
    """Alpha (h, w) at ``size`` = (height, width), by the resampling of the colours."""
    resized = upscale(alpha[None, ..., None], size)[0, ..., 0]
    return np.rint(resized * np.iinfo(alpha.dtype).max).astype(alpha.dtype)


def alpha_codes(alpha: HostArray, bits: int) -> HostArray:
    """Alpha as the codes of a file: 0 to ``2**bits - 1``, uint8 for 8 bits, else uint16."""
    scaled = alpha * (float(2**bits - 1) / np.iinfo(alpha.dtype).max)
    return np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)
