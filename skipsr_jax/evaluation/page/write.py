"""Writes the page that shows clips in several versions, with masks, scores, times and plots."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from skipsr_jax.errors import UserError, plural
from skipsr_jax.evaluation.page import contents as page_contents
from skipsr_jax.evaluation.page.contents import Clip, Plot, Version
from skipsr_jax.evaluation.page.files import PageFiles, new_page
from skipsr_jax.evaluation.page.viewable import CRF, DEFAULT_RATE, Viewable, make_viewable
from skipsr_jax.media.reader import Media, open_media

SCRIPTS = ("media.js", "view.js", "viewer.js", "tables.js", "main.js")


def write_page(
    path: pathlib.Path,
    clips: Sequence[Clip],
    *,
    title: str,
    scores: Mapping[str, Any] | None = None,
    plots: Sequence[Plot] = (),
    notes: Sequence[str] = (),
    frames: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a page of clips.

    Args:
      path: ``*.html`` for one file, a name without an extension for a folder (`new_page`).
      clips: at least one.
      title: of the page.
      scores: what ``evaluation.compare`` writes as JSON: ``{"results": {name: {"mean": {metric:
        x}, "clips": {clip: {metric: x}}}}, "metrics": {metric: definition}}``. Names are those of
        versions and clips.
      plots: pictures to show below.
      notes: sentences to add at the end.
      frames: the most frames of each clip; default: all.
      overwrite: whether to replace a page that exists.

    Raises:
      UserError: a file cannot be read, the page cannot be written, or its pictures are too many for
        one file.
    """
    if not clips:
        raise UserError(f"there is no clip to show on the page {path}")
    with new_page(pathlib.Path(path), overwrite=overwrite) as files:
        described = [_clip_json(i, clip, files, scores, frames) for i, clip in enumerate(clips)]
        contents = {
            "facts": _facts(described),
            "clips": described,
            "means": page_contents.means_of(scores) if scores else {},
            "metrics": page_contents.metrics_json(scores) if scores else [],
            "doubtful": page_contents.doubtful_metrics(scores) if scores else [],
            "plots": [_plot_json(i, plot, files) for i, plot in enumerate(plots)],
            "notes": [*notes, *_format_notes(described)],
        }
        files.fill("page.html", title, SCRIPTS, contents)


def _clip_json(
    index: int,
    clip: Clip,
    files: PageFiles,
    scores: Mapping[str, Any] | None,
    limit: int | None,
) -> dict[str, Any]:
    media = [open_media(version.path).part(version.first) for version in clip.versions]
    counts = [one.num_frames for one in media] + ([limit] if limit else [])
    count, rate = min(counts), _rate(media)
    versions = [
        _version_json(f"{index:03d}-{i:02d}", version, one, files, count, rate)
        for i, (version, one) in enumerate(zip(clip.versions, media, strict=True))
    ]
    # As in the scores, versions of other sizes are cut from the top left.
    sized = [m for v, m in zip(clip.versions, media, strict=True) if v.role != "input"] or media
    return {
        "name": clip.name,
        "height": min(one.height for one in sized),
        "width": min(one.width for one in sized),
        "pixel_aspect": float(sized[0].sample_aspect_ratio),
        "frames": count,
        "rate": float(rate),
        "versions": versions,
        "masks": [
            page_contents.mask_json(n, _first(keep, count)) for n, keep in clip.masks.items()
        ],
        "scores": page_contents.scores_of_clip(scores, clip.name) if scores else {},
        "doubtful": page_contents.doubtful_metrics(scores, clip.name) if scores else [],
        "lengths": sorted({one.num_frames for one in media}),
    }


def _first(keep: np.ndarray, frames: int) -> np.ndarray:
    return keep[:frames].astype(bool)


def _rate(media: Sequence[Media]) -> Fraction:
    return next((one.frame_rate for one in media if one.frame_rate), DEFAULT_RATE)


def _version_json(
    stem: str, version: Version, media: Media, files: PageFiles, count: int, rate: Fraction
) -> dict[str, Any]:
    made: Viewable = make_viewable(media, files.folder, stem, frames=count, rate=rate)
    return {
        "name": version.name,
        "role": version.role,
        "file": media.path.name,
        "kind": made.kind,
        "source": files.address(made.path),
        "height": made.height,
        "width": made.width,
        "coded_height": made.coded_height,
        "coded_width": made.coded_width,
        "copied": made.copied,
        "seconds": {name: float(s) for name, s in version.seconds.items()},
    }


def _plot_json(index: int, plot: Plot, files: PageFiles) -> dict[str, Any]:
    source = pathlib.Path(plot.path)
    if not source.is_file():
        raise UserError(f"there is no plot {source}")
    copy = files.folder / f"plot-{index:02d}{source.suffix.lower()}"
    shutil.copyfile(source, copy)
    return {"source": files.address(copy), "caption": plot.caption}


def _facts(clips: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(v["name"] for clip in clips for v in clip["versions"])
    return f"{plural(len(clips), 'clip')}: {', '.join(names)}"


def _format_notes(clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a viewer has to know about the files that the page shows."""
    versions = [version for clip in clips for version in clip["versions"]]
    notes = []
    if any(v["kind"] == "video" and not v["copied"] for v in versions):
        some = any(v["copied"] for v in versions if v["kind"] == "video")
        notes.append(
            f"For browsers, {'some' if some else 'all'} of the videos were encoded again as H.264, "
            f"4:2:0, 8 bits, rate factor {CRF}{'; the others are the original files' * some}. "
            "Scores are of the original files."
        )
    if any(v["kind"] == "image" and not v["copied"] for v in versions):
        notes.append("Pictures of folders, and those that browsers do not show, are PNG of 8 bits.")
    if any(v["role"] == "input" for v in versions):
        notes.append("Inputs are stretched to the size of the results by the browser.")
    lengths = [clip["name"] for clip in clips if len(clip["lengths"]) > 1]
    if lengths:
        notes.append(
            f"Versions differ in length; the frames that all have are shown: {', '.join(lengths)}."
        )
    return notes
