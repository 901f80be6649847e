"""Whether the frames in a folder are whole: holes in their numbers, and images that are cut off.

All frames are looked at before any work, and all that are missing or damaged are named in one line.
An image is decoded for that only where its file does not end as its format says.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Sequence

from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.image_reader import ImageHeader, image_header, read_image

_NAMED = 10
"""Frames that a line names; of further ones it says how many there are."""
_MISSING = 4
"""At most one number of so many may be missing where a folder is taken for one clip unasked."""
_JPEG_END = b"\xff\xd9"
_TIFF_PARTS = ((273, 279), (324, 325))  # offsets and byte counts of its parts


def frame_numbers(files: Sequence[pathlib.Path]) -> list[int] | None:
    """The numbers at the end of the names of ``files``, which are in natural order.

    None unless all names are one prefix and a number, and the numbers rise.
    """
    matches = [re.fullmatch(r"(.*?)(\d+)", file.stem, re.DOTALL) for file in files]
    found = [(match[1], int(match[2])) for match in matches if match]
    if len(found) < len(files) or len({prefix for prefix, _ in found}) != 1:
        return None
    numbers = [number for _, number in found]
    rising = all(after > before for before, after in itertools.pairwise(numbers))
    return numbers if rising else None


def is_nearly_complete(numbers: Sequence[int]) -> bool:
    """Whether a few numbers at most are missing between the first and the last."""
    span = numbers[-1] - numbers[0] + 1
    return _MISSING * (span - len(numbers)) <= span


def holes(numbers: Sequence[int]) -> list[str]:
    """The gaps between rising numbers, each as one number or as ``first to last``."""
    return [
        f"{before + 1}" if after == before + 2 else f"{before + 1} to {after - 1}"
        for before, after in itertools.pairwise(numbers)
        if after > before + 1
    ]


def missing_note(files: Sequence[pathlib.Path]) -> str:
    """A line that names the numbers that are missing between the frames; "" where none is."""
    numbers = frame_numbers(files)
    if not numbers or numbers[-1] - numbers[0] + 1 == len(numbers):
        return ""
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    return (
        f"{missing} of its frames {'is' if missing == 1 else 'are'} missing: number "
        f"{_some(holes(numbers))}; the {len(numbers)} others are upscaled as one clip (separate "
        "images: --folder=files)"
    )


def checked_headers(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> list[ImageHeader]:
    """What each frame says of itself.

    Raises UserError, one line that names all frames that are cut off or cannot be read.
    """
    headers, broken = [], []
    for file in files:
        try:
            headers.append(image_header(file))
            if not _ends_as_it_should(file):
                read_image(file)
        except UserError as error:
            broken.append(str(error).removeprefix(f"{folder}{os.sep}"))
    if broken:
        raise UserError(
            f"{folder}: {len(broken)} of {len(files)} frames cannot be read: {_some(broken)}; "
            "replace or remove them"
        )
    return headers


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _ends_as_it_should(file: pathlib.Path) -> bool:
    """Whether a file is as long as its format says; False where only decoding can tell."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(12)
        opened.seek(max(0, size - 2))
        tail = opened.read()
    if head.startswith(b"\x89PNG"):
        return True  # `image_header` follows its chunks to the last one
    if head.startswith(b"\xff\xd8"):
        return tail == _JPEG_END
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little") <= size
    if head.startswith(b"BM"):
        return 0 < int.from_bytes(head[2:6], "little") <= size
    return head[:2] in (b"II", b"MM") and _tiff_is_whole(file, size)


def _tiff_is_whole(file: pathlib.Path, size: int) -> bool:
    """Whether all parts of the picture lie within a TIFF file (TIFF 6.0, sections 8 and 15)."""
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            tags = dict(image.tag_v2)
    except (OSError, SyntaxError):
        return False  # a kind that Pillow does not know
    for offsets, counts in _TIFF_PARTS:
        if offsets in tags and counts in tags:
            parts = zip(tags[offsets], tags[counts], strict=False)
            return all(offset + count <= size for offset, count in parts)
    return False
