"""Notes beside finished outputs, so that the same command again does only what is missing.

One hidden file of a folder holds a line of JSON for each output that was finished there: its name,
the fingerprint of what it was made from, and its size and time. An output counts as done when it is
unchanged since, and was made from the same input, config and checkpoint. Another version of the
program does not make finished outputs unfinished.
"""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any

from skipsr_jax.errors import UserError
from skipsr_jax.inference.fingerprint import Fingerprint, differences, fingerprint
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import Media

NAME = ".skipsr_done.jsonl"
_PARTS = ("input", "config", "checkpoint")
_LOG = logging.getLogger(__name__)


def note_done(path: pathlib.Path, made_from: Fingerprint) -> None:
    """Notes that the output at ``path`` is finished. A note that cannot be written is no error."""
    line = json.dumps({"name": path.name, "made_from": dict(made_from), "state": _state(path)})
    try:
        with (path.parent / NAME).open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        _LOG.warning("%s is not noted as finished: %s", path, error.strerror)


def is_done(
    path: pathlib.Path,
    mask: pathlib.Path | None,
    media: Media,
    target: tuple[int, int],
    settings: Settings,
) -> bool:
    """Whether an earlier run finished an output, and its mask pictures if they are wanted.

    Raises UserError when it finished the output from another input, config or checkpoint.
    """
    found = [_noted(each) for each in (path, mask) if each is not None]
    if found[0] is None:
        return False
    wanted = fingerprint(media, target, settings)
    changed = differences(found[0], wanted, _PARTS)
    if changed:
        raise UserError(
            f"{path} exists and was made from another {' and '.join(changed)}: give --overwrite to "
            "replace it, or another --output"
        )
    return all(each is not None and not differences(each, wanted, _PARTS) for each in found)


def _noted(path: pathlib.Path) -> Fingerprint | None:
    """What the output at ``path`` was made from; None where nobody knows, or it was changed."""
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
    if found is None or not path.exists() or found.get("state") != _state(path):
        return None
    return found.get("made_from")


def _state(path: pathlib.Path) -> str:
    """What changes when a file, or a file of a folder, is written."""
    files = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else [path]
    facts = [(item.name, item.stat().st_size, item.stat().st_mtime_ns) for item in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
