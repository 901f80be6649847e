"""Still images: read and written one at a time, with orientation, 16 bits and colour profile.

Invariant: what is read is RGB as a viewer shows it (Exif orientation applied, transparency laid on
black), and what is written appears under its name only when it is complete.
"""

import contextlib
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file, temporary_path
from skipsr_jax.media.colour import ColourTags, RgbFrame, bit_depth_of, to_rgb

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
WRITABLE_IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_MAYBE_16_BIT = frozenset({".png", ".tif", ".tiff"})
_QUALITY = 95  # of JPEG and WebP, out of 100


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) as shown, from the header alone."""
    with _opened(path) as image:
        width, height = image.size
        sideways = image.getexif().get(0x0112, 1) >= 5  # Exif orientations 5..8 swap the sides
    return (width, height) if sideways else (height, width)


def read_image(path: pathlib.Path) -> tuple[RgbFrame, bytes | None]:
    """An image as RGB (uint8, or uint16 from 16-bit PNG and TIFF) and its ICC profile.

    Raises UserError when the file is missing, empty, damaged, animated or not an image.
    """
    with _opened(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a phone's JPEG
            raise UserError(f"{path} is an animation; convert it into a video file first")
        profile = image.info.get("icc_profile")
        if path.suffix.lower() in _MAYBE_16_BIT:
            deep = _read_16_bit(path)
            if deep is not None:
                return deep, profile
        try:
            shown = ImageOps.exif_transpose(image)
            if shown.has_transparency_data:
                shown = shown.convert("RGBA")
                ground = Image.new("RGBA", shown.size, (0, 0, 0, 255))
                shown = Image.alpha_composite(ground, shown)
            rgb = np.array(shown.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} is damaged or truncated ({error})") from error
        gray_or_rgb = image.mode in ("RGB", "RGBA", "L", "LA", "P", "1")
    return rgb, profile if gray_or_rgb else None


def write_image(
    path: str | os.PathLike,
    array: RgbFrame,
    *,
    overwrite: bool = False,
    icc_profile: bytes | None = None,
) -> None:
    """Writes RGB uint8 as PNG, JPEG or WebP, or uint16 as 16-bit PNG; complete or not at all.

    Raises UserError when the extension cannot hold the array, the file exists and ``overwrite`` is
    False, or the folder cannot be written.
    """
    path = pathlib.Path(path)
    check_image_output(path, overwrite=overwrite, bit_depth=8 * array.dtype.itemsize)
    try:
        with new_file(path, overwrite=overwrite) as temporary:
            save_rgb(temporary, array, icc_profile)
    except OSError as error:
        raise write_error(path, error) from error


def check_image_output(path: pathlib.Path, *, overwrite: bool = False, bit_depth: int = 8) -> None:
    """Raises the UserError that writing ``path`` would end in, before any work is done."""
    extension = path.suffix.lower()
    if extension not in WRITABLE_IMAGE_EXTENSIONS:
        known = ", ".join(sorted(WRITABLE_IMAGE_EXTENSIONS))
        raise UserError(f"cannot write {path}: an image name must end in one of {known}")
    if bit_depth > 8 and extension != ".png":
        raise UserError(f"cannot write {path}: only .png holds more than 8 bits")
    check_place(path, overwrite=overwrite)


def save_rgb(path: pathlib.Path, array: RgbFrame, icc_profile: bytes | None = None) -> None:
    """Encodes an array into ``path`` at once, by its extension. See `write_image` for users."""
    if array.dtype == np.uint16:
        path.write_bytes(_png_16_bit(array, icc_profile))
        return
    options: dict[str, object] = {"icc_profile": icc_profile} if icc_profile else {}
    if path.suffix.lower() == ".png":
        options |= {"compress_level": 4}
    else:
        options |= {"quality": _QUALITY}
        if path.suffix.lower() != ".webp":
            options |= {"subsampling": 0}
    Image.fromarray(array).save(path, **options)


def check_place(path: pathlib.Path, *, overwrite: bool) -> None:
    """Raises UserError unless ``path`` can be made in its folder (a file is made to find out)."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another name or allow overwriting")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {folder}; create it first")
    probe = temporary_path(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into the folder {folder}: {error.strerror}") from error


def write_error(path: pathlib.Path, error: OSError) -> UserError:
    """One line for a failed write (disk full, permission, ...)."""
    return UserError(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    try:
        image = Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({type(error).__name__})") from error
    with image:
        yield image


def _read_16_bit(path: pathlib.Path) -> RgbFrame | None:
    """The image through libav where it has more than 8 bits (Pillow cuts RGB to 8), else None."""
    try:
        with av.open(str(path)) as container:
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


def _png_16_bit(array: RgbFrame, icc_profile: bytes | None) -> bytes:
    """A 16-bit RGB PNG (ISO/IEC 15948); each row by filter 2, the difference to the one above."""
    height, width, _ = array.shape
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))]
    if icc_profile:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(icc_profile)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 4)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
