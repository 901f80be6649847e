"""What a page shows: clips in several versions, their masks, scores and times.

These are plain values, so that every program that has results can make a page of them.
"""

import base64
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from skipsr_jax.geometry import PATCH_FRAMES
from skipsr_jax.types import Bool, HostArray

Role = Literal["input", "result", "truth"]


@dataclasses.dataclass(frozen=True)
class Version:
    """One file that shows a clip: its input, a result, or the truth.

    Attributes:
      name: as the scores call it; unique within the clip.
      path: a video, an image, or a folder of frames.
      role: an input is shown stretched to the clip's size, others at their own size.
      seconds: of each stage that made it.
      first: the frame of the file with which it begins.
    """

    name: str
    path: str | os.PathLike
    role: Role = "result"
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip or a picture with all its versions.

    Attributes:
      name: as the scores call it.
      versions: at least one.
      masks: keep masks by name, (f, r, q): patch by patch of 16 x 16 pixels for each frame, true
        where the transformer ran. A mask with one frame holds for all frames.
    """

    name: str
    versions: Sequence[Version]
    masks: Mapping[str, Bool[HostArray, "f r q"]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A PNG, WebP, JPEG or SVG file and what it shows."""

    path: str | os.PathLike
    caption: str


def mask_json(name: str, keep: Bool[HostArray, "f r q"]) -> dict[str, Any]:
    """A keep mask for the page: where masks begin, and each as bits in base64, row by row.

    Consecutive frames with equal masks, which are usual because a patch has 4 frames, share one.
    """
    changed = [i for i in range(len(keep)) if i == 0 or not np.array_equal(keep[i], keep[i - 1])]
    bits = (base64.b64encode(np.packbits(keep[i]).tobytes()).decode() for i in changed)
    rows, columns = keep.shape[1:]
    return {
        "name": name, "rows": rows, "columns": columns, "starts": changed, "bits": list(bits),
    }  # fmt: skip


def number_json(value: float | int) -> float | str | None:
    """A number for JSON, which has no infinity and no NaN."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return float(value)


def scores_of_clip(scores: Mapping[str, Any], clip: str) -> dict[str, dict[str, Any]]:
    """{result: {metric: value}} of one clip, from the JSON that ``evaluation.compare`` writes."""
    of_results = scores["results"].items()
    return {name: _numbers(of["clips"][clip]) for name, of in of_results if clip in of["clips"]}


def means_of(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{result: {metric: value}} of the means in such a JSON, over clips that all results have."""
    own = {name: of["mean"] for name, of in scores["results"].items()}
    return {name: _numbers(of) for name, of in scores.get("common", own).items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The scores among the values of a clip, which may hold its number of frames and notes."""
    numbers = ((name, x) for name, x in values.items() if isinstance(x, float | int))
    return {name: number_json(x) for name, x in numbers if name != "frames"}


def metrics_json(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, direction, target and text of every metric.

    The direction is 1 where higher is better, -1 where lower, 0 where neither is known. The target
    is the value nearest to which is best, or None. They come from the text, which is that of the
    entry ``metrics`` of the scores: ``"PSNR of RGB in dB (↑)"``, ``"... (→1)"``.
    """
    about = scores.get("metrics", {})
    names = dict.fromkeys(itertools.chain(about, *means_of(scores).values()))
    arrows = {"(↑)": 1, "(↓)": -1}
    texts = {name: about.get(name, "") for name in names}
    return [
        {"name": name, "direction": arrows.get(text[-3:], 0), "target": _target(text), "text": text}
        for name, text in texts.items()
    ]


def _target(text: str) -> float | None:
    found = re.search(r"\(→([\d.]+)\)$", text)
    return float(found[1]) if found else None


def doubtful_metrics(scores: Mapping[str, Any], clip: str | None = None) -> list[str]:
    """The metrics whose values of a clip, or of any clip, say too little to call one the best."""
    of_metrics = scores.get("doubtful", {}).items()
    return [name for name, clips in of_metrics if clip is None or clip in clips]


def masks_of_frames(keep: Bool[HostArray, "t r q"]) -> Bool[HostArray, "f r q"]:
    """The keep mask of each frame, from that of latent frames: the first one has one frame."""
    repeats = [1] + [PATCH_FRAMES] * (len(keep) - 1)
    return np.repeat(keep, repeats, axis=0)
