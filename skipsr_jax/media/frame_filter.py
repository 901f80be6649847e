"""What is done to decoded frames before they become RGB: cropping, and stating the chroma site.

Both are done by libavfilter, which moves pointers and copies no pixels.
"""

import itertools
from typing import NamedTuple

import av

_CODECS_THAT_STATE_THE_SITE = frozenset(
    {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "vc1", "h263"}
)


_ALIGNMENT = 8  # pixels; a pixel of chroma is four columns wide at most, in any pixel format


class Crop(NamedTuple):
    """A rectangle of pixels: rows ``top`` .. ``top + height - 1``, and columns likewise."""

    top: int
    left: int
    height: int
    width: int

    def within(self, height: int, width: int) -> bool:
        """Whether it has a pixel or more, all of them in a frame of ``height`` x ``width``."""
        top, left, rows, columns = self
        return (
            min(top, left) >= 0
            and min(rows, columns) >= 1
            and top + rows <= height
            and left + columns <= width
        )


def with_margin(crop: Crop, size: tuple[int, int]) -> tuple[Crop, Crop]:
    """Returns what to convert so that the pixels of a crop become those of the whole frame.

    The filters of chroma reach over four pixels, and begin anew every _ALIGNMENT pixels; along an
    odd side they do not, because half of it is no whole number.

    Args:
      crop: in a coded frame.
      size: (height, width) of the frame.

    Returns:
      The crop with a margin, and the crop's place within that.
    """

    def around(first: int, length: int, end: int) -> tuple[int, int]:
        if end % 2:
            return 0, end
        begin = max(0, first - _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT
        stop = -(-(first + length) // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        return begin, min(stop, end) - begin

    top, height = around(crop.top, crop.height, size[0])
    left, width = around(crop.left, crop.width, size[1])
    inside = Crop(crop.top - top, crop.left - left, crop.height, crop.width)
    return Crop(top, left, height, width), inside


class FrameFilter:
    """Crops the decoded frames of one clip, and states "left" as chroma site if its codec does not.

    H.264, H.265 and the older MPEG decoders state the site, and swscale honours it. Where none is
    stated (VP9, AV1, ProRes, FFV1, ...) players take chroma for sited left but swscale for centred:
    half a pixel of colour fringe, which would be upscaled with the picture.
    """

    def __init__(self, codec: str, crop: Crop | None = None):
        """``codec``: FFmpeg's name, such as "h264"; ``crop``: in pixels of the coded frame, whose
        edges lie on whole pixels of chroma or on the border."""
        self._states_site = codec in _CODECS_THAT_STATE_THE_SITE
        self._crop = crop
        self._layout: tuple[int, int, str] | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns a frame with the same pixels, or those of the crop."""
        layout = (frame.width, frame.height, frame.format.name)
        if layout != self._layout:
            self._layout, self._graph = layout, self._graph_for(frame)
        if self._graph is None:
            return frame
        self._graph.push(frame)
        return self._graph.pull()

    def _graph_for(self, frame: av.VideoFrame) -> av.filter.Graph | None:
        filters = []
        if not (self._states_site or frame.format.is_rgb):
            filters.append(("setparams", "chroma_location=left"))
        if self._crop is not None:
            top, left, height, width = self._crop
            filters.append(("crop", f"{width}:{height}:{left}:{top}:exact=1"))
        if not filters:
            return None
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base,
            ),
            *(graph.add(*each) for each in filters),
            graph.add("buffersink"),
        ]
        for node, after in itertools.pairwise(nodes):
            node.link_to(after)
        graph.configure()
        return graph
