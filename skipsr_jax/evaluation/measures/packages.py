"""Metrics that other projects compute, where a user has installed them.

MUSIQ (trained on KonIQ-10k), CLIP-IQA (RN50) and BRISQUE come from pyiqa, whose licence
(PolyForm Noncommercial) and dependencies (torch) keep it out of ours. It takes frames of 8 bits.
DOVER is no package: a clone of its repository is run as a program on the result's file.
"""

import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import Weights
from skipsr_jax.media.inputs import is_image

_DOVER_SCRIPT = "evaluate_one_video.py"
_DOVER_SCORE = re.compile(r"overall score[^:]*:\s*([-+.\deE]+)")


def pyiqa_metric(name: str) -> Callable[[Picture, Picture | None], float]:
    """Returns a metric of pyiqa that needs no truth, of one frame.

    Raises UserError when pyiqa is not installed, or cannot load the metric's weights.
    """
    if importlib.util.find_spec("pyiqa") is None:
        raise UserError(
            "needs pyiqa (pip install pyiqa: PolyForm Noncommercial licence, brings torch), which "
            "downloads its weights when it is first used"
        )
    try:
        metric = importlib.import_module("pyiqa").create_metric(name)
    except (ImportError, OSError, RuntimeError, KeyError) as error:
        raise UserError(f"pyiqa cannot make it: {' '.join(str(error).split())[:200]}") from error

    def score(result: Picture, truth: Picture | None) -> float:
        codes = result.codes
        if codes.dtype != np.uint8:
            codes = np.rint(255 * result.rgb).astype(np.uint8)
        return float(metric(Image.fromarray(codes)))

    return score


class Dover:
    """DOVER's fused score of a result's video file, 0 to 1.

    Args:
      folder: the clone of DOVER's repository.
      path: the result.
    """

    def __init__(self, folder: pathlib.Path, path: pathlib.Path):
        self._folder, self._path = folder, path

    def add(self, result: Picture, truth: Picture | None) -> None:
        """Does nothing: DOVER reads the file itself."""

    def value(self) -> float:
        """Runs DOVER. Raises UserError when it fails."""
        if self._path.is_dir() or is_image(self._path):
            raise Undefined("DOVER reads video files alone")
        command = [sys.executable, _DOVER_SCRIPT, "-f", "-v", str(self._path.resolve())]
        run = subprocess.run(
            [*command, "-d", "cpu"], cwd=self._folder, capture_output=True, text=True, check=False
        )
        found = _DOVER_SCORE.search(run.stdout)
        if run.returncode or found is None:
            said = (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1]
            raise UserError(f"DOVER failed on {self._path}: {said}")
        return float(found[1])

    def close(self) -> None:
        """Does nothing."""


def find_dover(weights: Weights) -> pathlib.Path:
    """The clone of DOVER's repository in the folder of weights. Raises UserError."""
    script = weights.find(f"DOVER/{_DOVER_SCRIPT}")
    if script is None:
        raise UserError(
            "needs a clone of github.com/VQAssessment/DOVER as DOVER/ in the folder --weights, "
            "with its weights and packages installed as its README says"
        )
    return script.parent
