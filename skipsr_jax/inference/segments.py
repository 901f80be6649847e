"""The state of a long clip that is written in segments: which are finished, and where to go on.

A hidden folder beside the output, ``.clip_x4.segments-<digest>.mp4``, has for each segment the
packets of its frames (or the frames themselves, of a folder), those of its mask pictures, and its
keep masks; for the last one also the tail of its last chunk (`Boundary`); and ``state.json``, which
lists what is finished. The digest is of the fingerprint: another input, config, checkpoint or
version of the program has another folder and is never mixed in.

Invariant: what ``state.json`` lists is on the disk. The file is replaced in one step, after that.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file, shortened, sync_file
from skipsr_jax.holding import Hold
from skipsr_jax.inference.boundaries import Boundary
from skipsr_jax.inference.fingerprint import Fingerprint, differences
from skipsr_jax.inference.program_keys import digest
from skipsr_jax.inference.settings import Chunk
from skipsr_jax.media.outputs import write_error
from skipsr_jax.types import HostArray

STATE = "state.json"
FRAMES, MASK_FRAMES = "frames", "mask_frames"
"""Folders of pictures, where the output is a folder."""


def chunks_per_segment(chunk: Chunk, segment_frames: int) -> int:
    """How many chunks make a segment of about so many frames."""
    return max(1, segment_frames // (chunk.frames - chunk.overlap))


def segments_folder(output: pathlib.Path, made_from: Fingerprint) -> pathlib.Path:
    """The folder of the segments of an output."""
    rest = f".segments-{digest(sorted(made_from.items()))[:12]}{output.suffix}"
    return output.with_name(shortened(f".{output.stem}", rest) + rest)


def folders_of(output: pathlib.Path) -> list[pathlib.Path]:
    """The folders of segments of an output, whatever it was made from."""
    rest = re.compile(rf"\.segments-[0-9a-f]{{12}}{re.escape(output.suffix)}")
    found = []
    for path in output.parent.glob(".*"):
        match = rest.search(path.name)
        if match and path.name == shortened(f".{output.stem}", match[0]) + match[0]:
            found.append(path)
    return sorted(found)


def discard_segments(output: pathlib.Path) -> None:
    """Removes the segments of a finished output, but for those that another process writes."""
    for folder in folders_of(output):
        with contextlib.suppress(OSError), Hold(folder):
            shutil.rmtree(folder, ignore_errors=True)


class Segments(contextlib.AbstractContextManager):
    """The segments of one output, held by this process inside the ``with`` block.

    Args:
      output: what they become.
      made_from: what it is made from.

    Attributes:
      folder: of the segments.
      frames: how many each finished segment has.
      is_whole: whether the last one is finished.
      notes: what a user should know of earlier runs, a line each.
    """

    def __init__(self, output: pathlib.Path, made_from: Fingerprint):
        self.folder = segments_folder(output, made_from)
        self._output, self._made_from = output, made_from
        self.frames: list[int] = []
        self.is_whole = False
        self.notes: list[str] = []
        self._state: dict[str, Any] = {}
        self._hold: Hold | None = None

    def __enter__(self) -> "Segments":
        try:
            self.folder.mkdir(exist_ok=True)
            self._hold = Hold(self.folder)
        except BlockingIOError as error:
            raise UserError(f"{self._output} is being made by another process") from error
        except OSError as error:
            raise write_error(self._output, error) from error
        self._read()
        for other in folders_of(self._output):
            if other != self.folder:
                self.notes.append(self._about(other))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and not self.is_whole:  # what is unfinished may be what fills the disk
            for path in self.folder.glob(f"{len(self.frames):06d}.*"):
                path.unlink(missing_ok=True)
        if self._hold:
            self._hold.close()

    @property
    def frames_done(self) -> int:
        """How many frames the finished segments have."""
        return sum(self.frames)

    def path(self, name: str, number: int | None = None) -> pathlib.Path:
        """The path of a file of a segment, by default of the one that is made next."""
        return self.folder / f"{len(self.frames) if number is None else number:06d}.{name}"

    def paths(self, name: str) -> list[pathlib.Path]:
        """The paths of a file of each finished segment."""
        return [self.path(name, number) for number in range(len(self.frames))]

    def boundary(self) -> Boundary:
        """Where the clip goes on. Raises UserError where the tail cannot be read."""
        if not self.frames or self.is_whole:
            return Boundary()
        state, path = self._state, self.path("tail.npz", len(self.frames) - 1)
        try:
            with np.load(path, allow_pickle=False) as found:
                pixels, keep = found["pixels"], found["keep"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is damaged: remove the folder {self.folder} to begin anew"
            ) from error
        pixels = pixels.view(np.dtype(state["tail_dtype"]))
        tail = list(zip(pixels, keep, strict=True))
        return Boundary(state["chunks"], tail, state["choices"], state["counts"])

    def finish(self, frames: int, keep: Sequence[HostArray], boundary: Boundary | None) -> None:
        """Lists the segment whose files are complete.

        Args:
          frames: of the segment.
          keep: the mask (r, q) of each.
          boundary: what lies behind it; None: it is the last one.
        """
        number = len(self.frames)
        state = {"made_from": dict(self._made_from), "frames": [*self.frames, frames],
                 "whole": boundary is None}  # fmt: skip
        try:
            self._save("keep.npz", keep=np.stack(keep))
            if boundary is not None:
                boundary = boundary.on_host()
                state |= {"chunks": boundary.chunks, "choices": boundary.choices}
                state |= {"counts": boundary.counts, "tail_dtype": self._save_tail(boundary)}
            with new_file(self.folder / STATE, overwrite=True) as temporary:
                temporary.write_text(json.dumps(state))
                sync_file(temporary)
        except OSError as error:
            raise write_error(self._output, error) from error
        self._state, self.frames, self.is_whole = state, state["frames"], boundary is None
        if number:
            self.path("tail.npz", number - 1).unlink(missing_ok=True)

    def keep_masks(self) -> Iterator[HostArray]:
        """Yields the keep mask (r, q) of each frame of the finished segments."""
        for path in self.paths("keep.npz"):
            with np.load(path, allow_pickle=False) as found:
                yield from found["keep"]

    def _save_tail(self, boundary: Boundary) -> str:
        pixels = np.stack([pixels for pixels, _ in boundary.tail] or [np.zeros((0,), np.float32)])
        keep = np.stack([keep for _, keep in boundary.tail] or [np.zeros((0,), bool)])
        self._save("tail.npz", pixels=pixels.view(np.uint8), keep=keep)
        return str(pixels.dtype)

    def _save(self, name: str, **arrays: HostArray) -> None:
        path = self.path(name)
        np.savez(path, **arrays) if name == "tail.npz" else np.savez_compressed(path, **arrays)
        sync_file(path)

    def _read(self) -> None:
        state = _state_of(self.folder)
        if state is None:
            return
        self._state, self.frames, self.is_whole = state, state["frames"], state["whole"]
        self.notes.append(
            f"{self._output}: an earlier run finished {len(self.frames)} segments; this one goes "
            f"on at frame {self.frames_done}"
        )

    def _about(self, other: pathlib.Path) -> str:
        """A line about segments that cannot be used."""
        state = _state_of(other) or {"frames": [], "made_from": {}}
        parts = differences(state["made_from"], self._made_from, self._made_from)
        return (
            f"{other} holds {len(state['frames'])} segments that are not used: another "
            f"{' and '.join(parts)} made them; it is removed when {self._output} is finished"
        )


def _state_of(folder: pathlib.Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / STATE).read_text())
        is_sound = isinstance(state["frames"], list) and isinstance(state["made_from"], Mapping)
        return state if is_sound and isinstance(state["whole"], bool) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a clip is cut.

    Attributes:
      chunks: of a segment.
      frames: of a segment, but for the last one.
    """

    chunks: int
    frames: int


def plan_of(chunk: Chunk, segment_frames: int, num_frames: int) -> Plan | None:
    """How a clip of ``num_frames`` frames is cut into segments; None: it is written as a whole."""
    if not segment_frames or num_frames <= segment_frames:
        return None
    chunks = chunks_per_segment(chunk, segment_frames)
    frames = chunks * (chunk.frames - chunk.overlap)
    return Plan(chunks, frames) if num_frames > frames + chunk.overlap else None
