"""Sound inputs for the programs, made on the spot, for others to be damaged."""

import dataclasses
import io
import pathlib

import numpy as np
import small_model
from media_clips import picture, write_clip
from PIL import Image

from skipsr_jax.checkpoints import keys, lazy, safetensors_file, torch_writer
from skipsr_jax.models.dit import SEEDVR2_3B
from skipsr_jax.models.dit.config import DiTConfig

SIZE = (48, 64)
FRAMES = 5
VIDEOS = ("mp4", "mkv", "ts")
PICTURES = ("png", "jpg", "webp", "tif")
OFFICIAL = ("pth", "safetensors")
DIT = dataclasses.replace(
    SEEDVR2_3B, width=12, text_width=6, heads=2, head_dim=12, layers=2, rope_dim=12, mm_layers=1
)


def write_medium(folder: pathlib.Path, kind: str) -> list[pathlib.Path]:
    """Sound files of a kind: of pictures, one with 8 bits, and one with 16 where it holds them."""
    path = folder / f"sound.{kind}"
    if kind in VIDEOS:
        return [write_clip(path, frames=FRAMES, audio="aac")]
    image = Image.fromarray(picture(0, *SIZE))
    image.save(path, exif=_exif())
    if kind not in ("png", "tif"):
        return [path]
    deep = folder / f"deep.{kind}"
    grey = picture(1, *SIZE)[..., 0].astype(np.uint16) * 257
    Image.fromarray(grey).save(deep)
    return [path, deep]


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010E] = "a picture"
    buffer = io.BytesIO()
    buffer.write(exif.tobytes())
    return buffer.getvalue()


def write_official(folder: pathlib.Path, kind: str, config: DiTConfig = DIT) -> pathlib.Path:
    """A small transformer with the names of the official weights, as .pth or .safetensors."""
    rng = np.random.default_rng(0)
    tensors = {
        entry.official: lazy.of_array(rng.normal(size=entry.shape).astype(np.float32))
        for entry in keys.entries_of(config)
        if entry.official is not None
    }
    path = folder / f"sound.{kind}"
    writer = torch_writer if kind == "pth" else safetensors_file
    writer.write(path, tensors)
    return path


def write_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """A small model of random numbers, which infer.py runs in a blink."""
    return pathlib.Path(small_model.write_small_model(folder / "model"))
