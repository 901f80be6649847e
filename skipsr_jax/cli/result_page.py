"""The page of a run of infer.py: inputs, results, masks and the seconds of each stage."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.page.contents import Clip, Version
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.page.write import write_page
from skipsr_jax.inference.job_output import Target
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings
from skipsr_jax.types import HostArray


@dataclasses.dataclass(frozen=True)
class Done:
    """An input whose result is finished.

    Attributes:
      files: the input and the outputs.
      masks: the keep mask (r, q) of each frame; empty where an earlier run made the result.
      report: how it went; None where an earlier run made the result.
    """

    files: Target
    masks: Sequence[HostArray] = ()
    report: Report | None = None

    @property
    def name(self) -> str:
        """Of the input, without its folders."""
        return self.files.media.path.resolve().name


def check(path: str, overwrite: bool, results: Sequence[pathlib.Path]) -> None:
    """Raises the UserError that writing the page would end in, once ``results`` are there."""
    check_page(pathlib.Path(path), overwrite=overwrite)
    page = pathlib.Path(path).resolve()
    for result in results:
        if page in (result.resolve(), *result.resolve().parents):
            raise UserError(
                f"--page={path} is where the result {result} goes: name another page, *.html or a "
                "folder of its own"
            )


def _mask_name(origin: str) -> str:
    """Where masks come from, without the folders of a checkpoint: a page is passed on."""
    words, of, checkpoint = origin.partition(" of ")
    return words + of + pathlib.PurePath(checkpoint).name


def lacking(done: Sequence[Done], failed: Sequence[pathlib.Path]) -> list[str]:
    """A line for each kind of thing that the page of a run does not show.

    Args:
      done: what the page shows.
      failed: the inputs that could not be upscaled.
    """
    earlier = [one.name for one in done if one.report is None]
    lines = []
    if earlier:
        lines.append(
            "Upscaled by an earlier run, of which masks and seconds are not kept "
            f"(--overwrite: do it again): {', '.join(earlier)}."
        )
    if failed:
        names = ", ".join(path.resolve().name for path in failed)
        lines.append(f"Not on the page, because they failed: {names}.")
    return lines


def _clip(one: Done, truth: str) -> Clip:
    """What the page shows of an input. ``truth``: the path of the true video, or ""."""
    media, report = one.files.media, one.report
    seconds = report.busy_seconds if report else {}
    versions = [
        Version("input", media.path, "input", first=media.first),
        Version("result", one.files.output, "result", seconds),
    ]
    if truth:
        versions.append(Version("truth", truth, "truth", first=media.first))
    masks = {}
    if report and len(one.masks):
        masks = {_mask_name(report.mask_source): np.stack(one.masks)}
    elif one.files.mask:
        versions.append(Version("mask", one.files.mask, "result"))
    return Clip(one.name, versions, masks)


def write(
    path: str, done: Sequence[Done], settings: Settings, overwrite: bool, lacks: Sequence[str] = ()
) -> None:
    """Writes the page of all results of a run. The reference of an oracle mask is its truth.

    ``lacks``: what `lacking` says of the run, for the notes of the page.
    """
    clips = [_clip(one, settings.mask.reference) for one in done]
    title = clips[0].name if len(clips) == 1 else f"{len(clips)} results"
    coders = {one.report.coder for one in done if one.report and one.report.coder}
    coder = "".join(f", by its {coder} coder" for coder in coders)
    notes = [
        f"Made by infer.py with the checkpoint {settings.checkpoint}{coder}. Stages overlap, so "
        "their seconds do not add up to the time that passed. The seconds of programs are those "
        "waited until programs were compiled or loaded; no other stage has them.",
        *lacks,
    ]
    write_page(
        pathlib.Path(path), clips, title=f"{title}, upscaled", notes=notes, overwrite=overwrite
    )
