"""The files of a page: one HTML file that holds everything, or a folder that is opened from disk.

A name that ends in .html becomes one file, with the pictures embedded; a name without an extension
becomes a folder with index.html and the pictures beside it, which is better for long clips. Neither
needs a server or a network. Invariant: the page appears when it is complete, and replaces nothing
but a page.
"""

import base64
import contextlib
import importlib.resources
import json
import mimetypes
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file, new_folder
from skipsr_jax.media.outputs import check_writable

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
    if path.name in ("", ".."):
        raise UserError(f"{path} has no name; name a page *.html, or a folder")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file or a device; name a page *.html, or a folder")
    if path.suffix and not path.is_dir():
        raise UserError(
            f"a page is no file {path.suffix}: name {path.with_suffix('.html')}, or the folder "
            f"{path.with_suffix('')}"
        )
    if path.is_dir() and any(path.iterdir()):
        index = path / "index.html"
        if not index.is_file() or _GENERATOR not in index.read_text(errors="replace")[:4096]:
            raise UserError(f"{path} is a folder that is no page: it will not be replaced")
        if not overwrite:
            raise UserError(f"{path} exists: give --overwrite to replace it, or another name")
    check_writable(path.with_name(path.name + ".html"), overwrite=True)


class PageFiles:
    """A page while it is made.

    Attributes:
      folder: where the files that it shows are written.
    """

    def __init__(self, folder: pathlib.Path, *, embed: bool):
        """``embed``: whether the files go into the HTML file."""
        self.folder = folder
        self._embed = embed
        self._embedded: list[str] = []
        self._bytes = 0
        self.html = ""

    def address(self, path: pathlib.Path) -> str:
        """The address, for the page, of a finished file in ``folder``.

        An embedded file moves into an element of the page. Raises UserError when these become too
        many.
        """
        if not self._embed:
            return f"{self.folder.name}/{path.name}"
        self._bytes += path.stat().st_size
        if self._bytes > EMBEDDED_AT_MOST:
            raise UserError(
                f"the page's pictures are more than {EMBEDDED_AT_MOST >> 20} MiB, too many for one "
                "HTML file: name a folder instead of a *.html"
            )
        name = f"file-{len(self._embedded)}"
        data = base64.b64encode(path.read_bytes()).decode()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._embedded.append(
            f'<script type="text/plain" id="{name}" data-type="{kind}">{data}</script>'
        )
        path.unlink()
        return f"#{name}"

    def fill(self, template: str, title: str, scripts: tuple[str, ...], contents: Any) -> None:
        """Makes the HTML of the page.

        Args:
          template: an HTML file of this package.
          title: of the page.
          scripts: JavaScript files of this package, in the order in which they run.
          contents: what the scripts show, ready for JSON.
        """
        values = {
            "title": escaped(title),
            "style": asset("page.css"),
            "script": "\n".join(asset(name) for name in scripts),
            "contents": json_for_html(contents),
            "embedded": "\n".join(self._embedded),
        }
        self.html = fill(asset(template), values)


@contextlib.contextmanager
def new_page(path: pathlib.Path, *, overwrite: bool = False) -> Iterator[PageFiles]:
    """Yields the files of a page, which appears at ``path`` at a clean end.

    Raises UserError as `check_page` does.
    """
    check_page(path, overwrite=overwrite)
    if is_single_file(path):
        with tempfile.TemporaryDirectory() as folder:
            files = PageFiles(pathlib.Path(folder), embed=True)
            yield files
            with new_file(path, overwrite=overwrite) as temporary:
                temporary.write_text(files.html, "utf-8")
        return
    with new_folder(path, overwrite=overwrite) as folder:
        (folder / "media").mkdir()
        files = PageFiles(folder / "media", embed=False)
        yield files
        (folder / "index.html").write_text(files.html, "utf-8")


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
