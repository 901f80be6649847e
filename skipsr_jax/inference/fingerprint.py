"""What the result of an input depends on, in a form that can be kept and compared.

Two runs with equal fingerprints make the same frames. The parts are separate digests, so that a
message can name what changed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import av

from skipsr_jax.checkpoints import store
from skipsr_jax.inference.model import find_predictor
from skipsr_jax.inference.program_keys import digest, environment, source_digest
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import Media
from skipsr_jax.resources import find_checkpoint

Fingerprint = Mapping[str, str]
"""Digests by part: "input", "config", "checkpoint", "version"."""

_SMALL = 2**16
"""Bytes of a file of a checkpoint that is compared by content; larger ones hold arrays, have names
that are drawn anew for each checkpoint, and are compared by their size."""


def fingerprint(media: Media, target: tuple[int, int], settings: Settings) -> dict[str, str]:
    """The fingerprint of a result.

    The input is read once, and so is the reference of an oracle mask; of the checkpoint only what
    is small.

    Args:
      media: the input.
      target: (height, width) of the result.
      settings: of the run.
    """
    files = [*(media.files or [media.path])]
    if settings.mask.reference:
        files += _files_below(pathlib.Path(settings.mask.reference))
    part = [str(media.first), str(media.num_frames)]
    return {
        "input": digest(*part, *_contents(files)),
        "config": digest(json.dumps(dataclasses.asdict(settings), sort_keys=True), target),
        "checkpoint": digest(*_checkpoints(settings)),
        "version": digest(*_version()),
    }


def differences(one: Fingerprint, other: Fingerprint, parts: Iterable[str]) -> list[str]:
    """The parts that are not equal."""
    return [part for part in parts if one.get(part) != other.get(part)]


def _contents(files: Iterable[pathlib.Path]) -> Iterator[str]:
    for path in files:
        with path.open("rb") as file:
            yield path.name
            yield hashlib.file_digest(file, "sha256").hexdigest()


def _files_below(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]


def _checkpoints(settings: Settings) -> Iterator[Any]:
    """Facts of the checkpoints of the model, its mask predictor and its adapter."""
    source = find_checkpoint(settings.checkpoint)
    config = store.load_config(source)
    adapter = str(store.step_folder(settings.adapter)) if settings.adapter else ""
    for path in dict.fromkeys((source, find_predictor(settings.mask, source, config), adapter)):
        if not path:
            continue
        yield json.dumps(store.load_config(path), sort_keys=True)
        if "://" in path:
            yield path
            continue
        folder = pathlib.Path(path)
        for file in _files_below(folder):
            size = file.stat().st_size
            yield str(file.relative_to(folder)), size
            if size <= _SMALL:
                yield from _contents([file])


def _version() -> Iterator[Any]:
    yield source_digest()
    yield environment()
    yield av.__version__, sorted(av.library_versions.items())
    yield os.cpu_count()  # encoders of video choose their threads by it, and the threads show
