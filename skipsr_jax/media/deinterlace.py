"""Deinterlacing: frames of two fields, taken at two times, become frames of one time.

The fields are recognised by the flags of the decoded frames, or, for codecs whose frames have none,
by what the container says. The filter is FFmpeg's bwdif, which looks one frame back and one ahead.
Invariant: frames that are not interlaced pass unchanged, and none is dropped or added but where
each field becomes a frame.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Literal

import av

Mode = Literal["auto", "field", "off"]
MODES = ("auto", "field", "off")
"""auto: one frame for each pair of fields; field: one for each field; off: as they are coded."""
REACH = 1
"""Frames on each side that a deinterlaced frame depends on."""

Picture = tuple[int, av.VideoFrame, bool]
"""Index of a frame, the frame, and whether it stands for one that could not be decoded."""

_LOG = logging.getLogger(__name__)
_TOP_FIRST, _BOTTOM_FIRST = (2, 5), (3, 4)  # AVFieldOrder, by the field that is shown first
_FRAMES_TELL = frozenset(
    {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3", "prores", "dnxhd"}
    | {"dvvideo", "av1", "vp8", "vp9"}
)
"""Codecs whose decoded frames say themselves whether they are interlaced."""


def has_single_fields(stream: av.VideoStream, frame: av.VideoFrame) -> bool:
    """Whether each decoded picture is one field: HEVC codes interlaced videos so (H.265, D.3.3)."""
    return bool(frame.interlaced_frame) and stream.codec_context.codec.canonical_name == "hevc"


def field_order_of(
    stream: av.VideoStream, frame: av.VideoFrame
) -> Literal["", "auto", "tff", "bff"]:
    """How the fields of a clip are ordered, by its first frame; "" where it is progressive.

    "auto": each frame says it.
    """
    if has_single_fields(stream, frame):
        return ""
    if frame.interlaced_frame:
        return "auto"
    order = stream.codec_context.field_order
    if stream.codec_context.codec.canonical_name in _FRAMES_TELL:
        return ""
    return "tff" if order in _TOP_FIRST else "bff" if order in _BOTTOM_FIRST else ""


def deinterlaced(
    pictures: Iterable[Picture], mode: Mode, field_order: str, name: str
) -> Iterator[Picture]:
    """Yields the pictures of one clip without interlacing.

    Args:
      pictures: in display order.
      mode: "auto" yields as many as there are; "field" two for each, with indices 2 i and 2 i + 1.
      field_order: as `field_order_of` gives it. Where it is "", the first frame that says that it
        is interlaced starts the filter, with a line in the log.
      name: of the clip, for the log.
    """
    if mode == "off":
        yield from pictures
        return
    active: _Filter | None = None
    for picture in pictures:
        frame = picture[1]
        if active is None and not field_order and frame.interlaced_frame and mode == "auto":
            _LOG.warning("%s: interlaced from frame %d on: deinterlaced (bwdif)", name, picture[0])
            field_order = "auto"
        layout = (frame.width, frame.height, frame.format.name)
        if active is not None and active.layout != layout:
            yield from active.flush()
            active = None
        if active is None and field_order:
            active = _Filter(frame, mode, field_order)
        if active is None:
            yield picture
        else:
            yield from active.push(picture)
    if active is not None:
        yield from active.flush()


class _Filter:
    """A filter graph for frames of one size and pixel format."""

    def __init__(self, frame: av.VideoFrame, mode: Mode, field_order: str):
        self.layout = (frame.width, frame.height, frame.format.name)
        self._doubles = mode == "field"
        self._waiting: list[tuple[int, bool]] = []
        self._pushed = self._made = 0
        self._graph = av.filter.Graph()
        only = "interlaced" if field_order == "auto" and not self._doubles else "all"
        kind = "send_field" if self._doubles else "send_frame"
        filters = [("bwdif", f"mode={kind}:parity=auto:deint={only}")]
        if field_order != "auto":
            filters.insert(0, ("setfield", f"mode={field_order}"))
        nodes = [
            self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=1
            ),
            *(self._graph.add(*each) for each in filters),
            self._graph.add("buffersink"),
        ]
        for node, after in itertools.pairwise(nodes):
            node.link_to(after)
        self._graph.configure()

    def push(self, picture: Picture) -> Iterator[Picture]:
        """Takes a frame, and yields what is ready."""
        index, frame, repeated = picture
        frame.pts = self._pushed  # rising, whatever the file says
        self._pushed += 1
        self._waiting.append((index, repeated))
        self._graph.push(frame)
        return self._ready()

    def flush(self) -> Iterator[Picture]:
        """Yields the rest."""
        self._graph.push(None)
        return self._ready()

    def _ready(self) -> Iterator[Picture]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self._doubles:
                index, repeated = self._waiting[0]
                second = self._made % 2
                if second:
                    self._waiting.pop(0)
                self._made += 1
                yield 2 * index + second, frame, repeated
            else:
                index, repeated = self._waiting.pop(0)
                self._made += 1
                yield index, frame, repeated
