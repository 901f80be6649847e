"""The page of a run of infer.py: inputs, results, masks and the seconds of each stage."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.page.contents import Clip, Version
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.page.write import write_page
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import Media
from skipsr_jax.types import HostArray


@dataclasses.dataclass(frozen=True)
class Finished:
    """An input that has been upscaled.

    Attributes:
      media: the input.
      output: the path of the result.
      masks: the keep mask (r, q) of each frame.
      report: how it went.
    """

    media: Media
    output: pathlib.Path
    masks: Sequence[HostArray]
    report: Report


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


def write(path: str, finished: Sequence[Finished], settings: Settings, overwrite: bool) -> None:
    """Writes the page of all results of a run. The reference of an oracle mask is its truth."""
    truth = settings.mask.reference
    clips = []
    for one in finished:
        versions = [
            Version("input", one.media.path, "input", first=one.media.first),
            Version("result", one.output, "result", one.report.busy_seconds),
        ]
        if truth:
            versions.append(Version("truth", truth, "truth", first=one.media.first))
        name = one.media.path.resolve().name
        masks = {_mask_name(one.report.mask_source): np.stack(one.masks)}
        clips.append(Clip(name, versions, masks))
    title = clips[0].name if len(clips) == 1 else f"{len(clips)} results"
    notes = [
        f"Made by infer.py with the checkpoint {settings.checkpoint}. Stages overlap, so their "
        "seconds do not add up to the time that passed."
    ]
    write_page(
        pathlib.Path(path), clips, title=f"{title}, upscaled", notes=notes, overwrite=overwrite
    )
