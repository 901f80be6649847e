"""TIFF files of more than 8 bits a sample: which can be read, and what their values mean.

Pillow cuts RGB to 8 bits and reads single channels of 32 bits; libav reads 16 bits and RGB of
32-bit floats, but takes other samples of these widths for them. The header decides (TIFF 6.0,
section 8).
Invariant: what cannot be read right is refused with its kind.
"""

import io
import pathlib
import struct
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, TiffImagePlugin

from skipsr_jax.errors import UserError
from skipsr_jax.types import HostArray

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # values of the tag SampleFormat
_KINDS = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "float"}
_MIN_IS_WHITE = 0
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 258, 262, 274, 277  # numbers of tags
_FORMAT, _ICC_PROFILE = 339, 34675
STILLS = {"format_whitelist": "tiff_pipe,png_pipe,apng"}
"""For ``av.open``: readers that open no other files."""
_LIBAV_FLOATS = ("rgbf32le", "rgbaf32le", "rgbf32be", "rgbaf32be")


class TiffSamples(NamedTuple):
    """The samples of a pixel: how many, their bits, their format and their photometric meaning; and
    the orientation and the profile of the picture."""

    count: int
    bits: int
    form: int
    photometric: int
    orientation: int
    icc_profile: bytes | None

    def __str__(self) -> str:
        return f"{self.count} x {self.bits} bits, {_KINDS.get(self.form, 'unknown')}"


def tiff_samples(data: bytes) -> TiffSamples | None:
    """What the header of a TIFF file says; None where it is no plain TIFF (BigTIFF is none)."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bits = directory.get(_BITS, (1,))
        form = directory.get(_FORMAT, (_UNSIGNED,))
        form = form[0] if isinstance(form, tuple) else form
        count = int(directory.get(_SAMPLES, 1))
        return TiffSamples(
            count,
            int(max(bits)),
            int(form),
            int(directory.get(_PHOTOMETRIC, 1)),
            int(directory.get(_ORIENTATION, 1)),
            directory.get(_ICC_PROFILE),
        )
    except (SyntaxError, ValueError, TypeError, OSError, LookupError, struct.error):
        return None


def wide_values(path: pathlib.Path, data: bytes, samples: TiffSamples) -> HostArray:
    """The values of a TIFF that is neither 8 nor 16-bit unsigned: (h, w) or (h, w, 3 or 4).

    Raises UserError for a kind that cannot be read, OSError, SyntaxError, ValueError or
    av.FFmpegError for a damaged file.
    """
    if samples.count == 1 and samples.form == _FLOAT and samples.bits == 32:
        values = _by_pillow(data, "F")
    elif samples.count == 1 and samples.form in (_UNSIGNED, _SIGNED) and samples.bits in (16, 32):
        values = _by_pillow(data, "I")
        if samples.form == _UNSIGNED:
            values = values.view(np.uint32)
    elif samples.count in (3, 4) and samples.form == _FLOAT and samples.bits == 32:
        with av.open(io.BytesIO(data), options=STILLS) as container:
            frame = next(container.decode(video=0))
        if frame.format.name not in _LIBAV_FLOATS:
            raise ValueError(f"its samples are read as {frame.format.name}")
        values = frame.to_ndarray()
    else:
        raise UserError(
            f"{path} is a TIFF with samples of {samples}, which cannot be read; "
            "convert it to 16 bits"
        )
    return values.max() - values if samples.photometric == _MIN_IS_WHITE else values


def scaled_to_16_bits(values: HostArray) -> tuple[HostArray, str]:
    """Values of any range as uint16, and what was done to them; "" where floats lie in [0, 1].

    Others are scaled so that the least becomes black and the greatest white. Not-a-numbers are
    black.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0)
    low, high = float(values.min()), float(values.max())
    if values.size and low >= 0 and high <= 1 and high > 0:
        return np.rint(values * 65535).astype(np.uint16), ""
    span = high - low or 1.0
    scaled = np.rint((values - low) / span * 65535).astype(np.uint16)
    return scaled, f"its values from {low:g} to {high:g} are scaled to black and white"


def _by_pillow(data: bytes, mode: str) -> HostArray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != mode:
            raise ValueError(f"its samples are read as {image.mode}")
        return np.array(image)
