"""Plots of an analysis: threshold against skipping and PSNR, and seconds by stage (matplotlib)."""

import pathlib
from collections.abc import Sequence
from typing import Any

from skipsr_jax.errors import imports_of_extra
from skipsr_jax.evaluation.speedup import STAGES, MeasuredTimes

FORMATS = ("png", "svg")
_INK = {"skip": "#1f6fb4", "psnr": "#c2571a"}
_STAGE_INK = ("#4c78a8", "#9ecae9", "#f58518", "#54a24b")


def check_installed() -> None:
    """Raises MissingExtraError where matplotlib is not installed."""
    _new_figure(1.0, 1.0)


def _new_figure(width: float, height: float) -> Any:
    with imports_of_extra("evaluation"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def threshold_effect(
    path: pathlib.Path, rows: Sequence[dict[str, Any]], tau: float, emphasised: str
) -> None:
    """Draws Figure 5b: tau against the skipped percentage and, where there is one, the PSNR.

    Args:
      path: of the file, a PNG or SVG.
      rows: with a ``sweep`` each, as of `skip_analysis.analyse`; thin lines.
      tau: the threshold that is marked.
      emphasised: name of the row that is drawn thick.
    """
    figure = _new_figure(6.4, 4.0)
    left = figure.add_subplot()
    left.set_xscale("log")
    left.set_xlabel("threshold τ of Eq. 1 (mean squared error of pixels in [0, 1])")
    left.set_ylabel("skipped patches (%)", color=_INK["skip"])
    left.set_ylim(0, 100)
    right = left.twinx() if all("psnr" in point for point in rows[0]["sweep"]) else None
    if right is not None:
        right.set_ylabel("PSNR against the truth (dB)", color=_INK["psnr"])
    for row in rows:
        taus = [point["tau"] for point in row["sweep"]]
        style = {"linewidth": 2.4, "marker": "o"} if row["name"] == emphasised else {
            "linewidth": 0.7, "alpha": 0.45}  # fmt: skip
        left.plot(
            taus, [100 * point["skip"] for point in row["sweep"]], color=_INK["skip"], **style
        )
        if right is not None:
            right.plot(taus, [point["psnr"] for point in row["sweep"]], color=_INK["psnr"], **style)
    left.axvline(tau, color="#666666", linestyle="--", linewidth=1)
    left.annotate(f" τ = {tau:g}", (tau, 2), color="#444444")
    left.set_title(emphasised, fontsize=10)
    figure.savefig(path, dpi=150)


def latency(path: pathlib.Path, times: MeasuredTimes) -> None:
    """Draws Figure 4b: seconds by stage, stacked, of each row of the measured times.

    ``path``: of the file, a PNG or SVG.
    """
    figure = _new_figure(6.4, 0.7 * len(times.skips) + 1.6)
    axes = figure.add_subplot()
    labels = ["dense" if not skip else f"{100 * skip:.0f} % skipped" for skip in times.skips]
    begin = [0.0] * len(labels)
    for stage, ink in zip(STAGES, _STAGE_INK, strict=True):
        seconds = [row[stage] for row in times.seconds]
        axes.barh(labels, seconds, left=begin, color=ink, label=stage)
        begin = [start + length for start, length in zip(begin, seconds, strict=True)]
    for label, end in zip(labels, begin, strict=True):
        axes.annotate(f" {end:.2f} s", (end, label), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"seconds, {times.facts['model']}, {times.case}, {times.facts['device']}")
    axes.legend(ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
    figure.savefig(path, dpi=150)
