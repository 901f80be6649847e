"""The orientation of a video: how its coded pictures are turned and mirrored for display."""

import dataclasses

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from jaxtyping import UInt8, UInt16

from skipsr_jax.media.colour import RgbFrame
from skipsr_jax.media.frame_filter import Crop


@dataclasses.dataclass(frozen=True)
class DisplayTransform:
    """Swap the axes of a coded picture, then flip its rows, then its columns."""

    swap_axes: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, rgb: RgbFrame) -> UInt8[np.ndarray, "h2 w2 3"] | UInt16[np.ndarray, "h2 w2 3"]:
        """Returns a coded picture (h, w, 3) as it is shown: (w, h, 3) if the axes are swapped."""
        if self.swap_axes:
            rgb = rgb.swapaxes(0, 1)
        rgb = rgb[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(rgb)

    def coded(self, crop: Crop, size: tuple[int, int]) -> Crop:
        """Returns a crop of the shown picture of ``size`` = (height, width) as one of the coded."""
        top, left, height, width = crop
        if self.flip_rows:
            top = size[0] - top - height
        if self.flip_columns:
            left = size[1] - left - width
        return Crop(left, top, width, height) if self.swap_axes else Crop(top, left, height, width)


def display_transform_of(frame: av.VideoFrame) -> DisplayTransform:
    """The transform that a decoded frame's display matrix states, to the nearest quarter turn.

    The matrix is [a b u; c d v; x y w]: column = a x + c y, row = b x + d y (ISO/IEC 14496-12).
    """
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return DisplayTransform()
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return DisplayTransform(True, flip_rows=b < 0, flip_columns=c < 0)
    return DisplayTransform(False, flip_rows=d < 0, flip_columns=a < 0)
