"""Decoded frames of one video as arrays: upright, of one size, depth and colour matrix.

A stream may change any of these midway. Invariant: what is yielded has the size and the depth of
the first frame, with the colours that the frame itself states; the log says what was converted.
"""

import logging
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from skipsr_jax.media.alpha import alpha_of, format_has_alpha, on_black
from skipsr_jax.media.colour import (
    EXACT,
    RgbFrame,
    bit_depth_of,
    tags_within,
    to_8_bits,
    to_rgb,
)
from skipsr_jax.media.frame_filter import Crop, FrameFilter, with_margin
from skipsr_jax.types import HostArray

if TYPE_CHECKING:
    from skipsr_jax.media.video import Video

_LOG = logging.getLogger(__name__)


class FrameConverter:
    """Converts decoded frames of a video, or a crop of them, to RGB; one that comes twice, once."""

    def __init__(self, video: "Video", crop: Crop | None = None, keep_alpha: bool = False):
        """``keep_alpha``: leave the colours of transparent pixels as they are, not on black."""
        self._video, self._lay_on_black = video, not keep_alpha
        self._crop, around = None, None
        if crop is not None:
            coded = video.transform.coded(crop, (video.height, video.width))
            around, self._crop = with_margin(coded, video.coded_size)
        self._filter = FrameFilter(video.codec, around)
        self._reformatter = VideoReformatter()
        self._alpha_reformatter = VideoReformatter()
        self._last: tuple[av.VideoFrame, RgbFrame] | None = None
        self._said: set[str] = set()

    def __call__(self, frame: av.VideoFrame) -> RgbFrame:
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._converted(frame)
        return self._last[1]

    def _converted(self, frame: av.VideoFrame) -> RgbFrame:
        video = self._video
        tags = tags_within(frame, video.colour)
        frame = self._filter(self._scaled(frame))
        rgb = to_rgb(frame, tags, self._reformatter)
        if self._lay_on_black and format_has_alpha(frame.format):
            rgb = on_black(rgb, alpha_of(frame, self._alpha_reformatter))
        if self._crop is not None:
            top, left, height, width = self._crop
            rgb = rgb[top : top + height, left : left + width]
        deep = video.bit_depth > 8
        if deep != (rgb.dtype == np.uint16):
            self._say(f"{bit_depth_of(frame.format)} bits instead of {video.bit_depth}: converted")
            rgb = rgb.astype(np.uint16) * np.uint16(257) if deep else to_8_bits(rgb)
        return video.transform.apply(rgb)

    def _scaled(self, frame: av.VideoFrame) -> av.VideoFrame:
        height, width = self._video.coded_size
        if (frame.height, frame.width) == (height, width):
            return frame
        self._say(f"{frame.width}x{frame.height} instead of {width}x{height}: scaled")
        return self._reformatter.reformat(frame, width=width, height=height, interpolation=EXACT)

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("%s: frames of %s to what the first one has", self._video.path, what)


class AlphaConverter:
    """Converts the alpha of decoded frames of a video, (height, width)."""

    def __init__(self, video: "Video"):
        self._video, self._reformatter = video, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> HostArray:
        """The alpha of a frame, upright, at the size and depth of the first."""
        video = self._video
        height, width = video.coded_size
        if (frame.height, frame.width) != (height, width):
            frame = self._reformatter.reformat(
                frame, width=width, height=height, interpolation=EXACT
            )
        alpha = alpha_of(frame, self._reformatter)[..., None]
        deep = video.bit_depth > 8
        if deep != (alpha.dtype == np.uint16):
            alpha = alpha.astype(np.uint16) * np.uint16(257) if deep else to_8_bits(alpha)
        return video.transform.apply(np.repeat(alpha, 3, axis=-1))[..., 0]
