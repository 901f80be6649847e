"""The folder of benchmarks/peers.py: frames as PNG, results, their masks and their seconds."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.measure import write_json
from benchmarks.peer_models import Peer
from skipsr_jax.errors import UserError
from skipsr_jax.media.image_writer import FrameFolderWriter
from skipsr_jax.media.reader import open_media

OPTIONS = ("folder", "degrade", "frames", "size", "smallest", "seed")
"""Flags that decide what the inputs are."""


def write_frames(folder: pathlib.Path, frames: np.ndarray) -> None:
    """Writes frames as PNG into a new folder, which is complete or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FrameFolderWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)


def read_frames(folder: pathlib.Path) -> np.ndarray:
    """The frames of a folder, (f, h, w, 3)."""
    return np.stack(list(open_media(folder).frames()))


def _read_facts(path: pathlib.Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text())
        needed = {key: dict(made[key]) for key in ("options", "seconds", "elapsed")}
        return needed | {"coders": dict(made.get("coders", {}))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error}): name another --out") from error


class Results:
    """The results in a folder, and how long each took.

    Attributes:
      seconds: of each stage, by result and clip.
      elapsed: seconds in all, by result and clip.
      keep: keep masks, by result and clip.
      coders: the autoencoder that ran, by result; only for results of our models.
    """

    def __init__(self, out: pathlib.Path, options: Mapping[str, Any], resume: bool):
        """Raises UserError when the folder has results that may not or cannot be kept."""
        self.out, self._facts = out, out / "made.json"
        self.seconds: dict[str, dict[str, Any]] = {}
        self.elapsed: dict[str, dict[str, float]] = {}
        self.keep: dict[str, dict[str, np.ndarray]] = {}
        self.coders: dict[str, str] = {}
        if self._facts.is_file():
            made = _read_facts(self._facts)
            differ = [name for name in OPTIONS if made["options"].get(name) != options[name]]
            if not resume:
                raise UserError(f"{out} has results: give --resume to keep them, or another --out")
            if differ:
                raise UserError(
                    f"{out} was made with --{differ[0]}={made['options'].get(differ[0])}: give the "
                    "same again, or another --out"
                )
            self.seconds, self.elapsed = made["seconds"], made["elapsed"]
            self.coders = made["coders"]
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            what = "folder with other files" if out.is_dir() else "file"
            raise UserError(f"{out} is a {what}; name another --out")
        self._options = dict(options)

    def folder(self, name: str) -> pathlib.Path:
        """Where the results of an upscaler are."""
        return self.out / "results" / name

    def make(self, name: str, load: Any, clips: Sequence[str]) -> None:
        """Runs an upscaler on all clips whose results are not there."""
        peer: Peer | None = None
        for clip in tqdm(clips, desc=name, disable=None):
            folder, mask = self.folder(name) / clip, self.out / "masks" / name / f"{clip}.npy"
            if not (folder.is_dir() and clip in self.seconds.get(name, {})):
                peer = peer or load()
                made = peer(read_frames(self.out / "LQ" / clip))
                if made.keep is not None:
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    np.save(mask, made.keep)
                if folder.is_dir():  # of a run that ended before it noted the seconds
                    shutil.rmtree(folder)
                write_frames(folder, made.frames)
                self.seconds.setdefault(name, {})[clip] = dict(made.seconds)
                self.elapsed.setdefault(name, {})[clip] = made.elapsed
                if made.coder:
                    self.coders[name] = made.coder
                self.save()
            if mask.is_file():
                self.keep.setdefault(name, {})[clip] = np.load(mask)

    def save(self) -> None:
        """Writes the options and the seconds, into a new folder where there is none."""
        self.out.mkdir(parents=True, exist_ok=True)
        facts = {"options": self._options, "seconds": self.seconds, "elapsed": self.elapsed,
                 "coders": self.coders}  # fmt: skip
        write_json(str(self._facts), facts)
