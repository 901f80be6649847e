"""Reading still images, from files or from bytes, with orientation, 16 bits, alpha and profile.

Invariant: what is read is RGB as a viewer shows it: the Exif orientation is applied, and greys,
CMYK and Lab are converted by their profile. A profile that is handed over describes RGB.
"""

import contextlib
import io
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from skipsr_jax.errors import UserError, message_of
from skipsr_jax.media.alpha import on_black
from skipsr_jax.media.colour import ColourTags, RgbFrame, bit_depth_of, to_rgb
from skipsr_jax.media.icc import grey_to_srgb, rgb_profile, space_of, to_srgb
from skipsr_jax.media.tiff_reader import STILLS, scaled_to_16_bits, tiff_samples, wide_values
from skipsr_jax.types import HostArray

_ORIENTATION = 0x0112  # the Exif tag; values 5 to 8 swap the sides
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
"""Of Pillow's formats those that start no other program (as EPS does) and open no other file."""
MOST_PIXELS = 178_956_970
"""Pixels of an image that is read. It is Pillow's limit: a small file may claim any size."""
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may state an orientation
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, StopIteration, struct.error, zlib.error, Image.DecompressionBombError,
    av.FFmpegError,
)  # fmt: skip
"""What Pillow and PyAV raise for damaged files of one kind or another."""
_TIFF_SIDES = (256, 257)  # ImageWidth, ImageLength
_CMYK = 5  # PhotometricInterpretation of TIFF


class ImageHeader(NamedTuple):
    """What an image says before it is decoded: its size in pixels as shown, and whether pixels may
    be transparent."""

    height: int
    width: int
    has_alpha: bool


class Still(NamedTuple):
    """An image.

    Attributes:
      rgb: (h, w, 3), uint8, or uint16 where the file has more bits; not multiplied by alpha.
      alpha: (h, w) of the same dtype, its greatest value opaque; None where all is opaque.
      icc_profile: of RGB, handed over and not applied.
      note: what was done to the values; "" for nothing.
    """

    rgb: RgbFrame
    alpha: HostArray | None = None
    icc_profile: bytes | None = None
    note: str = ""

    @property
    def on_black(self) -> RgbFrame:
        """The picture as it looks on a black ground."""
        return self.rgb if self.alpha is None else on_black(self.rgb, self.alpha)


def image_size(path: pathlib.Path, data: bytes | None = None) -> tuple[int, int]:
    """(height, width) in pixels as shown, without decoding the picture.

    ``data``: the bytes of the file, where they are in memory; ``path`` is then only its name.
    Raises UserError when the file is missing, empty or not an image.
    """
    return image_header(path, data)[:2]


def image_header(path: pathlib.Path, data: bytes | None = None) -> ImageHeader:
    """What an image says before it is decoded. Takes and raises what `image_size` does."""
    with _opened(path, data) as (file, image):
        if image is None:
            rgb = read_image(path, data).rgb
            return ImageHeader(*rgb.shape[:2], has_alpha=False)
        try:
            width, height = image.size
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # of some versions, turned already
                width, height = (int(image.tag_v2[tag]) for tag in _TIFF_SIDES)
            if image.format == "PNG" and not _has_metadata_at_the_end(file):
                exif = Image.Image.getexif(image)  # Pillow's own for PNG decodes the whole picture
            else:
                exif = image.getexif()
        except _DAMAGE as error:
            raise UserError(f"{path} is damaged or truncated ({_reason(error)})") from error
        if _orientation(exif) >= 5:
            width, height = height, width
        return ImageHeader(height, width, image.has_transparency_data)


def read_image(path: pathlib.Path, data: bytes | None = None) -> Still:
    """Reads an image. ``data``: the bytes of the file, where they are in memory.

    Raises UserError when the file is missing, empty, damaged, animated or not an image.
    """
    with _opened(path, data) as (file, image):
        try:
            count = getattr(image, "n_frames", 1) if image is not None else 1
            if count > 1 and image.format == "TIFF":
                raise UserError(f"{path} has {count} pages; save each as a file of its own first")
            if count > 1 and image.format != "MPO":
                raise UserError(f"{path} is an animation; convert it into a video file first")
            is_tiff = image is None or image.format == "TIFF"
            if image is not None and image.format == "PNG":
                _check_png(file)
            if is_tiff or (image.format == "PNG" and _png_bits(file) == 16):
                file.seek(0)
                content = file.read()
                deep = _read_deep(path, content, image, is_tiff)
                if deep is not None:
                    return deep
            if image is None:
                raise UserError(f"{path} cannot be read as an image")
            return _read_8_bit(image)
        except UserError:
            raise
        except _DAMAGE as error:
            raise UserError(f"{path} is damaged or truncated ({_reason(error)})") from error


def _orientation(exif: Image.Exif) -> int:
    """The Exif orientation, 1 to 8; 1 where it is none of these, as in damaged files."""
    value = exif.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reason(error: BaseException) -> str:
    """What an exception says, or its kind where that is nothing."""
    return message_of(error) or type(error).__name__


def _read_8_bit(image: Image.Image) -> Still:
    profile = image.info.get("icc_profile")
    damaged = bool(profile) and not space_of(profile)
    note = "its colour profile is damaged and left out" if damaged else ""
    displayed = ImageOps.exif_transpose(image)
    alpha, is_grey = None, displayed.mode in ("1", "L", "LA", "La")
    if displayed.has_transparency_data:
        if displayed.mode == "La":
            displayed = displayed.convert("LA")
        displayed = displayed.convert("RGBA")
        alpha = np.array(displayed.getchannel("A"))
        alpha = None if alpha.min() == 255 else alpha
        displayed = displayed.getchannel("R") if is_grey else displayed.convert("RGB")
    elif is_grey:
        displayed = displayed.convert("L")
    if displayed.mode in ("L", "CMYK", "LAB"):
        try:
            displayed = to_srgb(displayed, profile)
        except ImageCms.PyCMSError as error:
            raise ValueError(f"its colour profile cannot be applied: {error}") from error
    return Still(np.array(displayed.convert("RGB")), alpha, rgb_profile(profile), note)


@contextlib.contextmanager
def _opened(
    path: pathlib.Path, data: bytes | None
) -> Iterator[tuple[io.BufferedIOBase, Image.Image | None]]:
    """Yields the file, and the image that Pillow makes of it; nothing is decoded yet.

    The image is None for a TIFF file whose kind Pillow does not know.
    """
    if data is None and not path.is_file():
        raise UserError(f"there is no file {path}")
    if (path.stat().st_size if data is None else len(data)) == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb") if data is None else io.BytesIO(data))
            image = stack.enter_context(Image.open(file, formats=_FORMATS))
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{path} has more than {MOST_PIXELS} pixels, the most that an image may have; cut "
                "it into parts, or make it smaller"
            ) from error
        except UnidentifiedImageError as error:
            file.seek(0)
            if file.read(4) not in _TIFF_MAGIC:
                raise UserError(f"{path} cannot be read as an image") from error
            image = None
        except _DAMAGE as error:
            raise UserError(f"{path} cannot be read as an image ({_reason(error)})") from error
        yield file, image


@contextlib.contextmanager
def _elsewhere(file: io.BufferedIOBase) -> Iterator[None]:
    """Leaves the file where it was: Pillow goes on reading there."""
    here = file.tell()
    try:
        yield
    finally:
        file.seek(here)


def _png_bits(file: io.BufferedIOBase) -> int:
    """Bits of a component of a PNG file, by its header (ISO/IEC 15948, section 11.2.1)."""
    with _elsewhere(file):
        file.seek(24)
        return file.read(1)[0]


def _check_png(file: io.BufferedIOBase) -> None:
    """Raises ValueError where a chunk of a PNG file has another checksum than it states.

    Pillow does not compare those of the chunks that hold the pixels.
    """
    with _elsewhere(file):
        file.seek(8)
        kind = b""
        while kind != b"IEND":
            head = file.read(8)
            kind, body = head[4:], file.read(int.from_bytes(head[:4], "big"))
            stated = file.read(4)
            if len(stated) < 4:
                raise ValueError("the file ends within its chunks")
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(stated, "big"):
                raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong")


def _has_metadata_at_the_end(file: io.BufferedIOBase) -> bool:
    """Whether a PNG file has a chunk of metadata behind its pixels.

    Raises ValueError when the file ends before its last chunk.
    """
    found = behind = False
    with _elsewhere(file):
        end = file.seek(0, io.SEEK_END)
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            found |= behind and kind in _PNG_METADATA
            behind |= kind == b"IDAT"
            if file.seek(length + 4, io.SEEK_CUR) > end or kind == b"IEND":
                break
        else:
            kind = b""
        if kind != b"IEND" or file.tell() > end:
            raise ValueError("the file ends within its chunks")
    return found


def _read_deep(
    path: pathlib.Path, data: bytes, image: Image.Image | None, is_tiff: bool
) -> Still | None:
    """The image where it has more than 8 bits (Pillow cuts RGB to 8), else None."""
    profile = image.info.get("icc_profile") if image is not None else None
    note = ""
    samples = tiff_samples(data) if is_tiff else None
    profile = samples.icc_profile if samples is not None else profile
    if samples is not None and samples.bits <= 8:
        return None
    if samples is not None and (samples.bits != 16 or samples.form != 1):
        rgba, note = scaled_to_16_bits(wide_values(path, data, samples))
        if rgba.ndim == 2:
            rgba = np.repeat(rgba[..., None], 3, axis=-1)
    elif samples is not None and samples.photometric == _CMYK:
        return None  # 8 bits are what its profile can be applied to
    else:
        rgba = _by_libav(data)
        if rgba is None:
            return None
    rgb, alpha = rgba[..., :3], rgba[..., 3] if rgba.shape[-1] == 4 else None
    if (rgb[..., :1] == rgb).all():
        rgb = grey_to_srgb(rgb, profile)
    if samples is not None:
        orientation = samples.orientation
    else:
        orientation = _orientation(image.getexif()) if image is not None else 1
    rgb = _upright(rgb, orientation)
    if alpha is not None:
        alpha = None if alpha.min() == 65535 else _upright(alpha, orientation)
    return Still(rgb, alpha, rgb_profile(profile), note)


def _by_libav(data: bytes) -> HostArray | None:
    """The image as uint16 (h, w, 3 or 4); None where it has 8 bits."""
    with av.open(io.BytesIO(data), options=STILLS) as container:
        stream = container.streams.video[0]
        if stream.format is None or bit_depth_of(stream.format) == 8:
            return None
        frame = next(container.decode(stream))
    if frame.format.name.startswith(("rgba64", "ya16")):
        return frame.reformat(format="rgba64le").to_ndarray()
    return to_rgb(frame, ColourTags(full_range=True), VideoReformatter())


def _upright(picture: HostArray, orientation: int) -> HostArray:
    """A picture turned and mirrored as an Exif orientation, 1 to 8, says."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
