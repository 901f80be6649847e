"""Copies of media files in formats that browsers show.

A file that every browser shows is copied as it is. Any other video or folder of frames becomes
H.264 in 4:2:0 with 8 bits at the rate factor `CRF`, in which frame i is shown at i / rate; any
other picture becomes PNG with 8 bits. A side that is odd, which 4:2:0 cannot store, gets one more
row or column that the page hides.
"""

import dataclasses
import itertools
import pathlib
import shutil
from fractions import Fraction

import numpy as np

from skipsr_jax.media.encoding import Encoding
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.reader import Media
from skipsr_jax.media.scan import open_container
from skipsr_jax.media.video_writer import VideoWriter
from skipsr_jax.types import HostArray

CRF = 12
"""Rate factor of H.264 copies: near transparent, about a third larger than the results' default."""
DEFAULT_RATE = Fraction(24)
"""Frames per second of folders of frames."""
_IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
_CONTAINERS = {".mp4", ".m4v"}


@dataclasses.dataclass(frozen=True)
class Viewable:
    """A file that browsers show.

    Attributes:
      path: of the file.
      kind: video or image.
      height, width: pixels that are shown.
      coded_height, coded_width: pixels that the file holds.
      copied: whether the file is the original, byte for byte.
    """

    path: pathlib.Path
    kind: str
    height: int
    width: int
    coded_height: int
    coded_width: int
    copied: bool


def is_still(media: Media) -> bool:
    """Whether there is one frame only, which is shown as a picture."""
    return media.kind == "image" or (media.kind == "frames" and media.num_frames == 1)


def browsers_show(media: Media, rate: Fraction | None) -> bool:
    """Whether the file itself can be shown, a video so that frame i is shown at i / rate."""
    extension = media.path.suffix.lower()
    if media.kind == "image":
        return extension in _IMAGES and media.bit_depth == 8
    video = media.video
    if video is None or media.first or video.codec != "h264" or extension not in _CONTAINERS:
        return False
    timing = video.scan.timing
    with open_container(video.path) as container:
        stored = container.streams.video[video.scan.stream_index].codec_context.pix_fmt
    return (
        stored in ("yuv420p", "yuvj420p")
        and timing.is_constant
        and timing.ticks is not None
        and timing.start == 0
        and timing.rate == rate
        and video.coded_size == (media.height, media.width)
    )


def make_viewable(
    media: Media,
    folder: pathlib.Path,
    stem: str,
    *,
    frames: int | None = None,
    rate: Fraction | None = None,
    copy: bool = True,
) -> Viewable:
    """Writes what a browser shows of ``media`` as a new file ``stem`` with an extension.

    Args:
      media: what to show.
      folder: an existing one.
      stem: name of the file without its extension.
      frames: how many frames are wanted; default: all.
      rate: frames per second; default: the file's own.
      copy: whether a file that browsers show is copied as it is.

    Raises:
      UserError: the file is damaged, or the folder cannot be written.
    """
    rate = rate or media.frame_rate or DEFAULT_RATE
    height, width = media.height, media.width
    if copy and browsers_show(media, rate):
        path = folder / f"{stem}{media.path.suffix.lower()}"
        shutil.copyfile(media.path, path)
        kind = "image" if media.kind == "image" else "video"
        return Viewable(path, kind, height, width, height, width, True)
    if is_still(media):
        path = folder / f"{stem}.png"
        write_image(path, eight_bits(next(media.frames())))
        return Viewable(path, "image", height, width, height, width, False)
    path = folder / f"{stem}.mp4"
    coded_height, coded_width = height + height % 2, width + width % 2
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    encoding = Encoding(codec="libx264", crf=CRF, pixel_format="yuv420p")
    # Without the decoder's time stamps, and so without audio; the colours stay.
    source = dataclasses.replace(media, video=None)
    with VideoWriter(
        path, height=coded_height, width=coded_width, source=source, rate=rate, bit_depth=8,
        encoding=encoding,
    ) as writer:  # fmt: skip
        for frame in itertools.islice(media.frames(), frames):
            writer.write(np.pad(frame, pad, "edge"))
    return Viewable(path, "video", height, width, coded_height, coded_width, False)


def eight_bits(frame: HostArray) -> HostArray:
    """A frame of uint8 or uint16 on its full scale as uint8, rounded."""
    return frame if frame.dtype == np.uint8 else np.rint(frame / 257).astype(np.uint8)
