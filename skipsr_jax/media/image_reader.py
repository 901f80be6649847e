"""Reading still images, from files or from bytes, with orientation, 16 bits and colour profile.

Invariant: what is read is RGB as a viewer shows it: the Exif orientation is applied, transparency
is laid on black.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import ColourTags, RgbFrame, bit_depth_of, to_rgb

_ORIENTATION = 0x0112  # the Exif tag; values 5 to 8 swap the sides
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may state an orientation


def image_size(path: pathlib.Path, data: bytes | None = None) -> tuple[int, int]:
    """(height, width) in pixels as shown, without decoding the picture.

    ``data``: the bytes of the file, where they are in memory; ``path`` is then only its name.
    Raises UserError when the file is missing, empty or not an image.
    """
    with _opened(path, data) as (file, image):
        width, height = image.size
        if image.format == "PNG" and not _has_metadata_at_the_end(file):
            exif = Image.Image.getexif(image)  # Pillow's own for PNG decodes the whole picture
        else:
            exif = image.getexif()
        swapped = exif.get(_ORIENTATION, 1) >= 5
    return (width, height) if swapped else (height, width)


def read_image(path: pathlib.Path, data: bytes | None = None) -> tuple[RgbFrame, bytes | None]:
    """An image as RGB (h, w, 3), uint8 or, from 16-bit PNG and TIFF, uint16; and its ICC profile.

    The profile is handed over, not applied. ``data``: the bytes of the file, where they are in
    memory; ``path`` is then only its name.

    Raises UserError when the file is missing, empty, damaged, animated or not an image.
    """
    with _opened(path, data) as (file, image):
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a phone's JPEG
            raise UserError(f"{path} is an animation; convert it into a video file first")
        profile = image.info.get("icc_profile")
        if image.format == "TIFF" or (image.format == "PNG" and _png_bits(file) == 16):
            deep = _read_16_bit(path, data)
            if deep is not None:
                return deep, profile
        try:
            displayed = ImageOps.exif_transpose(image)
            if displayed.has_transparency_data:
                displayed = displayed.convert("RGBA")
                ground = Image.new("RGBA", displayed.size, (0, 0, 0, 255))
                displayed = Image.alpha_composite(ground, displayed)
            rgb = np.array(displayed.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} is damaged or truncated ({error})") from error
        gray_or_rgb = image.mode in ("RGB", "RGBA", "L", "LA", "P", "1")
    return rgb, profile if gray_or_rgb else None


@contextlib.contextmanager
def _opened(
    path: pathlib.Path, data: bytes | None
) -> Iterator[tuple[io.BufferedIOBase, Image.Image]]:
    """Yields the file, and the image that Pillow makes of it; nothing is decoded yet."""
    if data is None and not path.is_file():
        raise UserError(f"there is no file {path}")
    if (path.stat().st_size if data is None else len(data)) == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb") if data is None else io.BytesIO(data))
            image = stack.enter_context(Image.open(file))
        except (
            UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError,
        ) as error:  # fmt: skip
            raise UserError(
                f"{path} cannot be read as an image ({type(error).__name__})"
            ) from error
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


def _has_metadata_at_the_end(file: io.BufferedIOBase) -> bool:
    """Whether a PNG file has a chunk of metadata behind its pixels."""
    with _elsewhere(file):
        file.seek(8)
        behind = False
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if behind and kind in _PNG_METADATA:
                return True
            behind |= kind == b"IDAT"
            file.seek(length + 4, io.SEEK_CUR)
        return False


def _read_16_bit(path: pathlib.Path, data: bytes | None) -> RgbFrame | None:
    """The image through libav where it has more than 8 bits (Pillow cuts RGB to 8), else None."""
    try:
        with av.open(str(path) if data is None else io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            if stream.format is None or bit_depth_of(stream.format) == 8:
                return None
            frame = next(container.decode(stream))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise UserError(f"{path} is damaged or truncated ({error})") from error
    if not frame.format.name.startswith(("rgba64", "ya16")):
        return to_rgb(frame, ColourTags(full_range=True), VideoReformatter())
    rgba = frame.reformat(format="rgba64le").to_ndarray().astype(np.uint32)
    return (rgba[..., :3] * rgba[..., 3:] // 65535).astype(np.uint16)
