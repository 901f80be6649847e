"""Writes the metrics and pictures of a run: metrics.jsonl, samples/, TensorBoard, others, the log.

Invariants: metrics.jsonl has one line per logged step, in order, also after a restart from an
earlier step, which drops the lines of later steps. What cannot be written, because the disk is full
or the folder is gone, delays nothing and stops nothing: it is said once, and lines are written
later if that becomes possible.
"""

import contextlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from PIL import Image

from skipsr_jax.checkpoints import store
from skipsr_jax.files import AnyPath, new_file
from skipsr_jax.training.stage import Metrics
from skipsr_jax.training.tensorboard import TensorBoardWriter
from skipsr_jax.types import Float, HostArray, UInt8

OVER_ALL_KINDS = ("loss", "grad_norm", "nonfinite")


def mean_by_kind(entries: Sequence[tuple[str, Metrics]]) -> dict[str, float]:
    """Means over steps.

    Args:
      entries: (kind of batch, scalars on the devices or the host) of each step.

    Returns:
      Means by name. With several kinds of batch each kind has its own entries ``kind/name``, and
      ``OVER_ALL_KINDS`` are also there over all kinds.
    """
    several = len({kind for kind, _ in entries}) > 1
    found: dict[str, list[float]] = defaultdict(list)
    for kind, metrics in jax.device_get(list(entries)):
        for name, value in metrics.items():
            if not several or name in OVER_ALL_KINDS:
                found[name].append(float(value))
            if several and name not in ("grad_norm", "nonfinite"):
                found[f"{kind}/{name}"].append(float(value))
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


@runtime_checkable
class Board(Protocol):
    """Where curves and pictures are shown: TensorBoard, Weights & Biases."""

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Appends one value for each name."""

    def write_image(self, step: int, name: str, pixels: UInt8[HostArray, "h w 3"]) -> None:
        """Appends a picture, 0..255."""

    def close(self) -> None:
        """Finishes what is written."""


class MetricWriter:
    """Writes on the first host; does nothing on the others.

    Args:
      workdir: of the run.
      first_step: that the run starts from: the lines of later steps are dropped.
      boards: to write to beside TensorBoard.
    """

    def __init__(self, workdir: str, first_step: int, boards: Sequence[Board] = ()):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        folder = store.absolute(workdir)
        self._lines = MetricLines(folder / "metrics.jsonl", first_step)
        self._samples = folder / "samples"
        self._boards = [TensorBoardWriter(os.path.join(workdir, "tb"), first_step + 1), *boards]

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """``step`` counts finished optimizer steps."""
        if not self._active:
            return
        self._lines.append(json.dumps({"step": step, **metrics}))
        for board in self._boards:
            board.write_scalars(step, metrics)
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logging.info("step %d  %s", step, line)

    def write_pictures(self, step: int, pictures: Sequence[Float[HostArray, "h w 3"]]) -> None:
        """Pixels in [0, 1] -> samples/<step>_<number>.png, and to the boards."""
        if not self._active:
            return
        for number, picture in enumerate(pictures):
            pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            path = self._samples / f"{step:07d}_{number}.png"
            try:
                self._samples.mkdir(exist_ok=True)
                with new_file(path, overwrite=True) as temporary, temporary.open("wb") as file:
                    Image.fromarray(pixels).save(file, "PNG")
            except OSError as error:
                logging.warning("%s cannot be written: %s", path, error)
            for board in self._boards:
                board.write_image(step, f"samples/{number}", pixels)

    def close(self) -> None:
        """Closes the files."""
        if self._active:
            for board in self._boards:
                board.close()


class MetricLines:
    """The lines of metrics.jsonl.

    Args:
      path: of the file, which need not exist; local or in a bucket.
      first_step: lines of later steps are dropped, and so are lines that are not whole, as a
        process leaves them that is killed while it writes.
    """

    def __init__(self, path: AnyPath, first_step: int):
        self._path = path
        found = path.read_bytes().splitlines() if path.exists() else []
        whole = [line.decode() for line in found if _step_of(line) is not None]
        if len(whole) < len(found):
            lost = len(found) - len(whole)
            logging.warning("%s: %d line(s) that are not whole are removed", path, lost)
        self._lines = [line for line in whole if _step_of(line) <= first_step]
        self._size: int | None = 0  # bytes of the file; None: the file is not what it should be
        self._failing = False
        if found:
            self._size = None
            self._write("")

    def append(self, line: str) -> None:
        """Appends a line, or keeps it until one can be written."""
        self._lines.append(line)
        self._write(line + "\n")

    def _write(self, text: str) -> None:
        try:
            if self._size is None or "://" in str(self._path):  # an object in a bucket cannot grow
                text = "".join(line + "\n" for line in self._lines)
                with new_file(self._path, overwrite=True) as temporary:
                    temporary.write_text(text)
                self._size = len(text.encode())
            else:
                with self._path.open("a") as file:
                    file.write(text)
                self._size += len(text.encode())
        except OSError as error:
            if not self._failing:
                logging.warning("%s cannot be written now: %s", self._path, error)
            if self._size is not None:  # a part of the line may have been written
                with contextlib.suppress(OSError):
                    os.truncate(self._path, self._size)
            self._size, self._failing = None, True
        else:
            self._failing = False


def _step_of(line: bytes | str) -> int | None:
    """The step of a line; None where it is not a whole line of metrics."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None
