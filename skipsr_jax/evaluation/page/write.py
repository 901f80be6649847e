"""Writes a page: one HTML file that holds everything, or a folder that is opened from disk.

A name that ends in .html becomes one file, with the pictures embedded; any other name a folder with
index.html and the pictures beside it, which is better for long clips. Neither needs a server or a
network. Invariant: the page appears when it is complete, and replaces nothing but a page.
"""

import base64
import contextlib
import dataclasses
import importlib.resources
import json
import mimetypes
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.page import contents as page_contents
from skipsr_jax.evaluation.page.contents import Clip, Plot, Version
from skipsr_jax.evaluation.page.viewable import CRF, DEFAULT_RATE, Viewable, is_still, make_viewable
from skipsr_jax.files import commit, new_file, temporary_path
from skipsr_jax.media.outputs import check_writable
from skipsr_jax.media.reader import Media, open_media

SCRIPTS = ("media.js", "view.js", "viewer.js", "tables.js", "main.js")
EMBEDDED_AT_MOST = 300 * 2**20
"""Bytes of pictures in one HTML file: browsers keep all of it in memory, as text."""
_GENERATOR = '<meta name="generator" content="skipsr_jax.evaluation.page">'


def is_single_file(path: pathlib.Path) -> bool:
    """Whether a page of this name is one file rather than a folder."""
    return path.suffix.lower() in (".html", ".htm")


def check_page(path: pathlib.Path, *, overwrite: bool = False) -> None:
    """Raises the UserError that writing a page at ``path`` would end in, before any work."""
    if is_single_file(path):
        check_writable(path, overwrite=overwrite)
        return
    if path.is_file():
        raise UserError(f"{path} is a file; name a page *.html, or a folder")
    if path.is_dir() and any(path.iterdir()):
        index = path / "index.html"
        if not index.is_file() or _GENERATOR not in index.read_text(errors="replace")[:4096]:
            raise UserError(f"{path} is a folder that is no page: it will not be replaced")
        if not overwrite:
            raise UserError(f"{path} exists: give --overwrite to replace it, or another name")
    check_writable(path.with_name(path.name + ".html"), overwrite=True)


def asset(name: str) -> str:
    """A file of this package as text."""
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{{name}}`` replaced, in one pass: values are not searched again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def json_for_html(value: Any) -> str:
    """JSON that can stand in a <script> element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def escaped(text: str) -> str:
    """Text for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


@dataclasses.dataclass
class _Files:
    """The files of a page while it is made.

    Attributes:
      folder: where they are written.
      prefix: of their names in the page's addresses.
      embed: whether they go into the HTML file.
      embedded: the elements that hold them.
    """

    folder: pathlib.Path
    prefix: str
    embed: bool
    embedded: list[str] = dataclasses.field(default_factory=list)
    embedded_bytes: int = 0

    def address(self, path: pathlib.Path) -> str:
        """The address of a finished file in ``folder``; its content moves into an element."""
        if not self.embed:
            return f"{self.prefix}{path.name}"
        self.embedded_bytes += path.stat().st_size
        if self.embedded_bytes > EMBEDDED_AT_MOST:
            raise UserError(
                f"the page's pictures are more than {EMBEDDED_AT_MOST >> 20} MiB, too many for one "
                "HTML file: name a folder instead of a *.html"
            )
        name = f"file-{len(self.embedded)}"
        data = base64.b64encode(path.read_bytes()).decode()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.embedded.append(
            f'<script type="text/plain" id="{name}" data-type="{kind}">{data}</script>'
        )
        path.unlink()
        return f"#{name}"


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
      path: ``*.html`` for one file, anything else for a folder.
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
    path = pathlib.Path(path)
    check_page(path, overwrite=overwrite)
    if not clips:
        raise UserError(f"there is no clip to show on the page {path}")
    with contextlib.ExitStack() as stack:
        single = is_single_file(path)
        if single:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = _Files(folder, "", embed=True)
        else:
            folder = temporary_path(path)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            (folder / "media").mkdir(parents=True)
            files = _Files(folder / "media", "media/", embed=False)
        described = [_clip_json(i, clip, files, scores, frames) for i, clip in enumerate(clips)]
        html = _html(title, described, files, scores, plots, notes)
        if single:
            with new_file(path, overwrite=overwrite) as temporary:
                temporary.write_text(html, "utf-8")
        else:
            (folder / "index.html").write_text(html, "utf-8")
            commit(folder, path, overwrite=overwrite)


def _html(
    title: str,
    clips: Sequence[Mapping[str, Any]],
    files: _Files,
    scores: Mapping[str, Any] | None,
    plots: Sequence[Plot],
    notes: Sequence[str],
) -> str:
    contents = {
        "facts": _facts(clips),
        "clips": clips,
        "means": page_contents.means_of(scores) if scores else {},
        "metrics": page_contents.metrics_json(scores) if scores else [],
        "plots": [_plot_json(i, plot, files) for i, plot in enumerate(plots)],
        "notes": [*notes, *_format_notes(clips)],
    }
    values = {
        "title": escaped(title),
        "style": asset("page.css"),
        "script": "\n".join(asset(name) for name in SCRIPTS),
        "contents": json_for_html(contents),
        "embedded": "\n".join(files.embedded),
    }
    return fill(asset("page.html"), values)


def _clip_json(
    index: int,
    clip: Clip,
    files: _Files,
    scores: Mapping[str, Any] | None,
    limit: int | None,
) -> dict[str, Any]:
    media = [open_media(version.path) for version in clip.versions]
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
        "lengths": sorted({one.num_frames for one in media}),
    }


def _first(keep: np.ndarray, frames: int) -> np.ndarray:
    return keep[:frames].astype(bool)


def _rate(media: Sequence[Media]) -> Fraction:
    return next((one.frame_rate for one in media if one.frame_rate), DEFAULT_RATE)


def _version_json(
    stem: str, version: Version, media: Media, files: _Files, count: int, rate: Fraction
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
        "still": is_still(media),
    }


def _plot_json(index: int, plot: Plot, files: _Files) -> dict[str, Any]:
    source = pathlib.Path(plot.path)
    if not source.is_file():
        raise UserError(f"there is no plot {source}")
    copy = files.folder / f"plot-{index:02d}{source.suffix.lower()}"
    shutil.copyfile(source, copy)
    return {"source": files.address(copy), "caption": plot.caption}


def _facts(clips: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(v["name"] for clip in clips for v in clip["versions"])
    count = f"{len(clips)} clip{'' if len(clips) == 1 else 's'}"
    return f"{count}: {', '.join(names)}"


def _format_notes(clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a viewer has to know about the files that the page shows."""
    versions = [version for clip in clips for version in clip["versions"]]
    notes = []
    if any(v["kind"] == "video" and not v["copied"] for v in versions):
        made = "all" if not any(v["copied"] for v in versions if v["kind"] == "video") else "some"
        notes.append(
            f"For browsers, {made} of the videos were encoded again as H.264, 4:2:0, 8 bits, rate "
            f"factor {CRF}; the others are the original files. Scores are of the original files."
        )
    if any(v["kind"] == "image" and not v["copied"] for v in versions):
        notes.append("Pictures that browsers do not show were converted to PNG with 8 bits.")
    if any(v["role"] == "input" for v in versions):
        notes.append("Inputs are stretched to the size of the results by the browser.")
    lengths = [clip["name"] for clip in clips if len(clip["lengths"]) > 1]
    if lengths:
        notes.append(
            f"Versions differ in length; the frames that all have are shown: {', '.join(lengths)}."
        )
    return notes
