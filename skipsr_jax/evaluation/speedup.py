"""How much faster skipping makes the transformer: by its operations, and by measured times."""

import json
import os
import pathlib
from typing import Any

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.flops import dit_flops
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.types import Bool, HostArray

TEXT_TOKENS = 58  # of the published positive embedding
STAGES = ("encode", "mask", "refine", "decode")
"""Stages of `benchmarks.end_to_end` whose seconds add up to the pipeline's."""


def operations(config: DiTConfig, keep: Bool[HostArray, "t r q"]) -> float:
    """Operations of one pass of the transformer over the kept patches of a chunk."""
    if not keep.any():
        return 0.0
    return dit_flops(config, build_plan([keep], [TEXT_TOKENS])).total


class MeasuredTimes:
    """The seconds of a run of ``benchmarks.end_to_end``, by the fraction of patches skipped.

    Args:
      path: its JSON file, with a dense row and rows that skip, of one clip.

    Attributes:
      facts: the device and the model.
      skips: fractions of the rows, ascending; 0 first.
      seconds: of each row: the stages' and "total".

    Raises:
      UserError: the file is no such result, or has no dense row.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            content = json.loads(pathlib.Path(path).read_text())
            found = _rows_of_longest_clip(content["rows"])
            self.facts = {key: content[key] for key in ("device", "model")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--times={path} is not what benchmarks.end_to_end --out writes ({error})"
            ) from error
        patches = max(row["kept"] for row in found)
        found.sort(key=lambda row: -row["kept"])
        self.case = found[0]["case"].split(",")[0]
        self.skips = [1 - row["kept"] / patches for row in found]
        self.seconds = [{name: row[f"{name}_s"] for name in (*STAGES, "total")} for row in found]
        if not found[0]["case"].endswith(", 0 % skipped"):
            raise UserError(f"--times={path} has no dense row: add 0 to --skips")

    def speedup(self, stage: str, skip: float) -> float | None:
        """Times as fast as dense at a skipped fraction, interpolated between the rows.

        ``stage``: one of the stages, or "total". None where more is skipped than in any row.
        """
        if skip > self.skips[-1]:
            return None
        seconds = [row[stage] for row in self.seconds]
        return seconds[0] / float(np.interp(skip, self.skips, seconds))


def _rows_of_longest_clip(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose clip has the most patches, of the coding that comes first there."""
    most = max(rows, key=lambda row: row["kept"])
    clip, coding = most["case"].split(",")[0], most["coding"]
    return [row for row in rows if row["case"].split(",")[0] == clip and row["coding"] == coding]
