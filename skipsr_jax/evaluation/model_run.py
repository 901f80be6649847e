"""Runs a model on the low-quality input of a true clip, for evaluation, and says which it is."""

import numpy as np

from skipsr_jax.inference.model import Model
from skipsr_jax.inference.pipeline import upscale_frames
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings
from skipsr_jax.types import Bool, Float, HostArray, UInt8


def facts_of_model(model: Model) -> dict[str, str]:
    """The checkpoint, its coder and its mask predictor; "" for one that is not there."""
    predictor = model.predictor_source
    return {"checkpoint": model.source, "coder": model.coder_kind, "predictor": predictor}


def line_of_model(model: Model) -> str:
    """`facts_of_model` as a line for the screen."""
    facts = facts_of_model(model).items()
    return "; ".join(f"{what} {which}" for what, which in facts if which)


def upscaled(
    low: UInt8[HostArray, "f h w 3"],
    target: tuple[int, int],
    programs: Programs,
    settings: Settings,
) -> tuple[Float[HostArray, "f h2 w2 3"], Bool[HostArray, "t r q"]]:
    """Upscales a clip of 4k + 1 frames; returns its frames in [0, 1] and the keep mask."""
    report = Report()
    pairs = list(upscale_frames(iter(low), target, programs, settings, report, formats=[32]))
    keep = np.stack([mask for _, mask in pairs])
    return np.stack([frame for [(frame,)], _ in pairs]), keep[[0, *range(1, len(keep), 4)]]
