"""Results of files without a model: reading and writing alone, as infer.py does them."""

import pathlib

import numpy as np

from skipsr_jax.inference import outputs
from skipsr_jax.inference.settings import Output, Size
from skipsr_jax.media.reader import open_media


def doubled(
    source: pathlib.Path,
    folder: pathlib.Path,
    extension: str = "",
    size: tuple[int, int] | None = None,
) -> tuple[pathlib.Path, list[str]]:
    """Writes the result of a file without a model, each pixel twice, and what infer.py says of it.

    Args:
      source: a video or a picture.
      folder: of the result.
      extension: of the result, by default that which infer.py chooses.
      size: (height, width) of the result, by default twice that of the source.
    """
    media = open_media(source)
    height, width = size or (2 * media.height, 2 * media.width)
    target = folder / f"result_{outputs.default_name(media, (height, width), Size())}"
    target = target.with_suffix(extension) if extension else target
    media, notes = outputs.with_alpha(media, target, Output())
    notes += outputs.check_output(target, media, (height, width), Output(), False)
    rows, columns = (
        np.arange(height) * media.height // height,
        np.arange(width) * media.width // width,
    )
    with outputs.open_writer(target, media, (height, width), Output(), False) as writer:
        for frame in media.frames():
            writer.write(frame[rows][:, columns])
    return target, [*media.notes, *notes]
