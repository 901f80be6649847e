"""Means of the scores of clips, and scores as a table of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from skipsr_jax.evaluation.measures.registry import arrow

Scores = dict[str, Any]
"""``{"results": {name: {"mean": {metric: x}, "clips": {clip: {metric: x, "frames": n}}}},
"metrics": {metric: definition}, "weights": {file: what it is}, "notes": [line]}``. x may be None.
Where values of a metric say little of some clips, also ``"doubtful": {metric: [clip]}``.
Where results have values of different clips, also ``"common": {name: {metric: x}}``.
"""


def mean_of(clips: Mapping[str, Mapping[str, float | None]], names: Sequence[str]) -> Scores:
    """The mean of each metric over the clips that have a value of it; None where none has."""
    means: Scores = {}
    for name in names:
        values = [clip[name] for clip in clips.values() if clip[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def means_of_common_clips(
    results: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> tuple[Scores, list[str]]:
    """The means over those clips of which every result has a value.

    Args:
      results: the scores of clips by name, each ``{"clips": {clip: {metric: x}}}``.
      names: of the metrics.

    Returns:
      ``{result: {metric: x}}``, and a line that names the metrics concerned; both are empty where
      the results have values of the same clips.
    """
    common: Scores = {result: {} for result in results}
    different = []
    for name in names:
        valued = [
            {clip for clip, values in part["clips"].items() if values[name] is not None}
            for part in results.values()
        ]
        shared = set.intersection(*valued)
        if any(clips != shared for clips in valued):
            different.append(f"{name} ({len(shared)})")
        for result, part in results.items():
            clips = {clip: values for clip, values in part["clips"].items() if clip in shared}
            common[result] |= mean_of(clips, [name])
    if not different:
        return {}, []
    line = "results have scores of different clips; 'common' has means over the clips of all"
    return common, [f"{line} (number): {', '.join(different)}"]


def table(scores: Scores) -> str:
    """The scores as text: a table of clips for each result, and the means of all results."""
    names = list(scores["metrics"])
    results = scores["results"]
    width = max(len(clip) for part in results.values() for clip in (*part["clips"], "common"))
    width = max(width, *(len(name) for name in results)) + 2
    head = "".join(f"{name + arrow(name):>12s}" for name in names)
    lines = []
    for name, part in results.items():
        rows = part["clips"] | {"mean": part["mean"]}
        lines.append(f"{name:{width}s}{head}")
        lines += [f"{clip:{width}s}{_cells(values, names)}" for clip, values in rows.items()]
    tables = {"means": {name: part["mean"] for name, part in results.items()}}
    if "common" in scores:
        tables["common"] = scores["common"]
    for title, means in tables.items() if len(results) > 1 else ():
        lines.append(f"{title:{width}s}{head}")
        lines += [f"{name:{width}s}{_cells(values, names)}" for name, values in means.items()]
    return "\n".join(lines)


def _cells(values: Mapping[str, float | None], names: Sequence[str]) -> str:
    cells = ["-" if values[name] is None else f"{values[name]:.4f}" for name in names]
    return "".join(f"{cell:>12s}" for cell in cells)
