"""Writes the metrics and pictures of a run: metrics.jsonl, samples/, TensorBoard, the log.

Invariant: metrics.jsonl has one line per logged step, in order, also after a restart from an
earlier step: lines of later steps are dropped.
"""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import imports_of_extra
from skipsr_jax.files import new_file
from skipsr_jax.training.stage import Metrics
from skipsr_jax.types import Float, HostArray

with imports_of_extra("train"):
    from tensorboardX import SummaryWriter

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


class MetricWriter:
    """Writes on the first host; does nothing on the others."""

    def __init__(self, workdir: str, first_step: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._path = store.absolute(workdir) / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._lines = [line for line in lines if json.loads(line)["step"] <= first_step]
        if lines:
            self._rewrite()
        self._board = SummaryWriter(os.path.join(workdir, "tb"), purge_step=first_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """``step`` counts finished optimizer steps."""
        if not self._active:
            return
        self._lines.append(json.dumps({"step": step, **metrics}))
        if "://" in str(self._path):  # an object in a bucket cannot grow
            self._rewrite()
        else:
            with self._path.open("a") as file:
                file.write(self._lines[-1] + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logging.info("step %d  %s", step, line)

    def _rewrite(self) -> None:
        with new_file(self._path, overwrite=True) as temporary:
            temporary.write_text("".join(line + "\n" for line in self._lines))

    def write_pictures(self, step: int, pictures: Sequence[Float[HostArray, "h w 3"]]) -> None:
        """Pixels in [0, 1] -> samples/<step>_<number>.png, and to TensorBoard."""
        if not self._active:
            return
        folder = self._path.with_name("samples")
        folder.mkdir(exist_ok=True)
        for number, picture in enumerate(pictures):
            pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            path = folder / f"{step:07d}_{number}.png"
            with new_file(path, overwrite=True) as temporary, temporary.open("wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
            self._board.add_image(f"samples/{number}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes."""
        if self._active:
            self._board.close()
