"""Writing still images and folders of frames: 8 and 16 bits, with the colour profile.

Invariant: what is written appears under its name only when it is complete.
"""

import contextlib
import os
import pathlib
import shutil
import struct
import zlib
from types import TracebackType

import numpy as np
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.files import (
    Identity,
    commit_or_rename,
    hold,
    identity,
    new_file,
    sync_file,
    temporary_path,
)
from skipsr_jax.media.alpha import upscaled_alpha
from skipsr_jax.media.colour import RgbFrame
from skipsr_jax.media.inputs import is_image
from skipsr_jax.media.outputs import check_writable, write_error
from skipsr_jax.media.reader import Media
from skipsr_jax.types import HostArray

WRITABLE_IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""Extensions of image files that can be written, in lower case."""
_LONGEST_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}  # pixels, by format
_QUALITY = 95  # of JPEG and WebP, out of 100


def write_image(
    path: str | os.PathLike,
    array: RgbFrame,
    *,
    overwrite: bool = False,
    icc_profile: bytes | None = None,
    alpha: HostArray | None = None,
    before: Identity | None = None,
) -> None:
    """Writes RGB uint8 as PNG, JPEG or WebP, or uint16 as 16-bit PNG; complete or not at all.

    ``alpha``: (h, w) of the same dtype, for files that hold it (`holds_alpha`). ``before``: with
    ``overwrite``, the `identity` of the one file that may be replaced; None: of any.

    Raises UserError when the extension cannot hold the array, the file exists and ``overwrite`` is
    False, or the folder cannot be written.
    """
    path = pathlib.Path(path)
    depth = 8 * array.dtype.itemsize
    check_image_output(path, overwrite=overwrite, bit_depth=depth, size=array.shape[:2])
    try:
        with new_file(path, overwrite=overwrite, before=before) as temporary:
            _save_rgb(temporary, array, icc_profile, alpha)
    except OSError as error:
        raise write_error(path, error) from error


def holds_alpha(path: pathlib.PurePath) -> bool:
    """Whether an image file can have transparent pixels, by its extension."""
    return path.suffix.lower() in (".png", ".webp")


def check_image_output(
    path: pathlib.Path,
    *,
    overwrite: bool = False,
    bit_depth: int = 8,
    size: tuple[int, int] = (1, 1),
) -> None:
    """Raises the UserError that writing ``path`` would end in, before any work is done.

    ``size``: (height, width) in pixels.
    """
    extension = path.suffix.lower()
    if extension not in WRITABLE_IMAGE_EXTENSIONS:
        known = ", ".join(sorted(WRITABLE_IMAGE_EXTENSIONS))
        raise UserError(f"cannot write {path}: an image name must end in one of {known}")
    if bit_depth > 8 and extension != ".png":
        raise UserError(f"cannot write {path}: only .png holds more than 8 bits")
    longest = _LONGEST_SIDE.get(extension)
    if longest and max(size) > longest:
        raise UserError(
            f"cannot write {path}: {extension} holds at most {longest} pixels a side, and this is "
            f"{size[1]}x{size[0]}; write .png, or a smaller size"
        )
    check_writable(path, overwrite=overwrite)


class FrameFolderWriter:
    """Writes RGB frames as PNG files into a new folder, named as the source's or 000000.png, ...

    The folder appears when all is written. An existing one is refused unless it is empty, or
    ``overwrite`` is True and it holds nothing but images.

    ``into``: a folder for the files, which stays as it is in the end: a part of the frames is
    written. Else they go into a temporary one, which becomes ``path``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        source: Media | None = None,
        overwrite: bool = False,
        into: pathlib.Path | None = None,
    ):
        """Checks that the folder can be made; raises UserError."""
        self.path = pathlib.Path(path)
        check_folder_output(self.path, overwrite=overwrite)
        self.frames_written = 0
        self._names = [file.stem for file in source.files] if source else []
        self._profile = source.icc_profile if source else None
        self._alphas = source.alphas() if source and source.keep_alpha else None
        self._partial, self._stays = into or temporary_path(self.path), into is not None
        self._overwrite, self._before = overwrite, identity(self.path)
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "FrameFolderWriter":
        try:
            self._partial.mkdir(exist_ok=self._stays)
            if not self._stays:
                self._held.enter_context(hold(self._partial))
        except OSError as error:
            raise write_error(self.path, error) from error
        return self

    def write(self, frame: RgbFrame) -> None:
        """Writes the next frame, uint8 or uint16, as PNG of that depth."""
        index = self.frames_written
        name = self._names[index] if index < len(self._names) else f"{index:06d}"
        try:
            alpha = upscaled_alpha(next(self._alphas), frame.shape[:2]) if self._alphas else None
            file = self._partial / f"{name}.png"
            _save_rgb(file, frame, self._profile, alpha)
            if self._stays:
                sync_file(file)
        except OSError as error:
            raise write_error(self.path, error) from error
        self.frames_written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise write_error(self.path, failure) from failure
        finally:
            if not self._stays:
                shutil.rmtree(self._partial, ignore_errors=True)
            self._held.close()

    def _finish(self) -> None:
        if self.frames_written == 0:
            raise UserError(f"no frame was written to {self.path}")
        if self._stays:
            return
        commit_or_rename(self._partial, self.path, overwrite=self._overwrite, before=self._before)


def check_folder_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Raises the UserError that opening a FrameFolderWriter would."""
    path = pathlib.Path(path)
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UserError(f"{path} exists and is not empty; name another folder")
        for item in path.iterdir():
            if not (item.is_file() and is_image(item)):
                raise UserError(f"{path} holds {item.name}, no image: it will not be replaced")
    if path.is_file():
        raise UserError(f"cannot write the folder {path}: there is a file of that name")
    check_writable(path / "frame.png" if path.is_dir() else path, overwrite=True)


def _save_rgb(
    path: pathlib.Path,
    array: RgbFrame,
    icc_profile: bytes | None = None,
    alpha: HostArray | None = None,
) -> None:
    """Encodes an array into ``path`` at once, by its extension. See `write_image` for users."""
    if alpha is not None:
        array = np.concatenate([array, alpha[..., None]], axis=-1)
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


def _png_16_bit(array: HostArray, icc_profile: bytes | None) -> bytes:
    """A 16-bit PNG (ISO/IEC 15948); each row by filter 2, the difference to the one above."""
    height, width, channels = array.shape
    kind = 6 if channels == 4 else 2
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if icc_profile:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(icc_profile)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 4)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
