"""Notes beside finished outputs, so that the same command again does only what is missing.

One hidden file of a folder holds a line of JSON for each output that was finished there: its name,
the fingerprint of what it was made from, and its size and time. An output counts as done when it is
unchanged since, and was made from the same input, config and checkpoint. Another version of the
program does not make finished outputs unfinished.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from skipsr_jax.errors import UserError
from skipsr_jax.inference.fingerprint import Fingerprint, differences, fingerprint
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import Media

NAME = ".skipsr_done.jsonl"
_PARTS = ("input", "config", "checkpoint")


def note_done(
    path: pathlib.Path, made_from: Fingerprint, complete: pathlib.Path | None = None
) -> str:
    """Notes that an output is finished.

    ``complete``: what is about to be renamed to ``path``, where it has another name yet.

    Returns "", or why the note cannot be written, as on a full disk.
    """
    state = _state(complete or path)
    line = json.dumps({"name": path.name, "made_from": dict(made_from), "state": state})
    try:
        with (path.parent / NAME).open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            was_cut_off = file.read(1) not in (b"", b"\n")  # by a full disk
            file.write(b"\n" * was_cut_off + line.encode() + b"\n")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def done_already(
    paths: Sequence[pathlib.Path], media: Media, target: tuple[int, int], settings: Settings
) -> frozenset[pathlib.Path]:
    """Those of the outputs of an input that an earlier run finished.

    Raises UserError when it finished one of them from another input, config or checkpoint.
    """
    found = {path: made_from for path in paths if (made_from := _noted(path)) is not None}
    if not found:
        return frozenset()
    wanted = fingerprint(media, target, settings)
    for path, made_from in found.items():
        changed = differences(made_from, wanted, _PARTS)
        if changed:
            raise UserError(
                f"{path} exists and was made from another {' and '.join(changed)}: give "
                "--overwrite to replace it, or another --output"
            )
    return frozenset(found)


def is_noted(path: pathlib.Path, made_from: Fingerprint) -> bool:
    """Whether the output at ``path`` was finished and made from exactly this."""
    return _noted(path) == made_from


def has_note(path: pathlib.Path) -> bool:
    """Whether an output of that name was finished there once; it may have changed since."""
    return _last_note(path) is not None


def _noted(path: pathlib.Path) -> Fingerprint | None:
    """What the output at ``path`` was made from; None where nobody knows, or it was changed."""
    found = _last_note(path)
    if found is None or not path.exists() or found.get("state") != _state(path):
        return None
    return found.get("made_from")


def _last_note(path: pathlib.Path) -> dict[str, Any] | None:
    """The latest note of an output of that name; None without one."""
    found: dict[str, Any] | None = None
    try:
        lines = (path.parent / NAME).read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            note = json.loads(line)
            if note["name"] == path.name:
                found = note
        except (ValueError, TypeError, KeyError):  # a line that was cut off by a full disk
            continue
    return found


def _state(path: pathlib.Path) -> str:
    """What changes when a file, or a file of a folder, is written."""

    def of(item: os.stat_result) -> tuple[int, int]:
        return item.st_size, item.st_mtime_ns

    facts: list[tuple] = [of(path.stat())]
    if path.is_dir():
        facts = sorted((entry.name, *of(entry.stat())) for entry in os.scandir(path))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
