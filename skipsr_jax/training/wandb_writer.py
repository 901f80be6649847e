"""Writes metrics and pictures to Weights & Biases, beside metrics.jsonl and TensorBoard.

The package wandb decides where to: WANDB_MODE=offline keeps the run in the workdir, for
``wandb sync`` later. Invariant: a workdir has one run id, however often it is restarted.
"""

import logging
import os
import tempfile
import uuid
from typing import Any

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError, imports_of_extra, message_of
from skipsr_jax.types import HostArray, UInt8

STEP = "step"
"""The axis of all curves: finished optimizer steps. wandb's own counter cannot go back, as a run
does that restarts from an earlier checkpoint."""


class WandbWriter:
    """Appends to the run of a workdir.

    Args:
      project: of Weights & Biases.
      workdir: its file ``wandb_id`` names the run, and its folder ``wandb`` holds what is offline.
      settings: of the run, as JSON.

    Raises:
      UserError: the extra wandb is not installed, or the service cannot be reached or refuses.
    """

    def __init__(self, project: str, workdir: str, settings: dict[str, Any]):
        with imports_of_extra("wandb"):
            import wandb
        self._wandb, self._failing = wandb, False
        folder = store.absolute(workdir)
        mark = folder / "wandb_id"
        if not mark.exists():
            mark.write_text(uuid.uuid4().hex[:12])
        local = tempfile.mkdtemp(prefix="wandb_") if "://" in os.fspath(folder) else str(folder)
        try:
            self._run = wandb.init(
                project=project,
                id=mark.read_text().strip(),
                name=folder.name,
                resume="allow",
                dir=local,
                config=settings,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise UserError(
                f"config.loop.wandb={project}: {message_of(error)}; run wandb login, or set "
                "WANDB_MODE=offline"
            ) from error
        self._run.define_metric("*", step_metric=STEP)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Appends one value for each name."""
        self._log({STEP: step} | scalars)

    def write_image(self, step: int, name: str, pixels: UInt8[HostArray, "h w 3"]) -> None:
        """Appends a picture, 0..255."""
        self._log({STEP: step, name: self._wandb.Image(pixels)})

    def close(self) -> None:
        """Waits until everything is sent, or on disk."""
        try:
            self._run.finish()
        except (self._wandb.Error, OSError) as error:
            self._warn(error)

    def _log(self, values: dict[str, Any]) -> None:
        try:
            self._run.log(values)
        except (self._wandb.Error, OSError) as error:
            self._warn(error)
        else:
            self._failing = False

    def _warn(self, error: Exception) -> None:
        if not self._failing:
            logging.warning("Weights & Biases cannot be written now: %s", message_of(error))
        self._failing = True
