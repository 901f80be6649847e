"""The page of a blind study, and the key that says which of its files shows which result.

Each pair has two files named x and y; which of them is a is drawn by the seed. The page draws the
order of the pairs, and which of x and y stands first, for each viewer anew, from the viewer's name.
Neither names nor sizes of results are on the page. The key is: compressed, it is no text that a
viewer reads by accident. It goes into the answers, so that these can be scored alone.
"""

import base64
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from skipsr_jax.errors import UserError, message_of
from skipsr_jax.evaluation.gsb import Answer
from skipsr_jax.evaluation.page.files import PageFiles, new_page
from skipsr_jax.evaluation.page.viewable import DEFAULT_RATE, browsers_show, make_viewable
from skipsr_jax.media.reader import Media, open_media

SCRIPTS = ("media.js", "view.js", "study.js")
VALUES = {"x": 1, "same": 0, "y": -1}
"""Answers, as values where x is a."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """Two results of one clip, and its input if there is one."""

    clip: str
    a: pathlib.Path
    b: pathlib.Path
    low: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Key:
    """What the files of a study are.

    Attributes:
      a, b: names of the results.
      clips: of the pairs, in the page's order.
      x_is_a: for each pair, whether its file x shows a.
    """

    a: str
    b: str
    clips: Sequence[str]
    x_is_a: Sequence[bool]


def seal(key: Key) -> str:
    """The key as a line that is no readable text."""
    return base64.b64encode(zlib.compress(json.dumps(dataclasses.asdict(key)).encode())).decode()


def unseal(line: str) -> Key:
    """The key of `seal`. Raises ValueError for anything else."""
    try:
        found = json.loads(zlib.decompress(base64.b64decode(line, validate=True)))
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"its key cannot be read ({message_of(error)})") from error
    clips, x_is_a = _entry(found, "clips", list), _entry(found, "x_is_a", list)
    kinds = [type(clip) for clip in clips], [type(is_a) for is_a in x_is_a]
    number = len(clips)
    if kinds != ([str] * number, [bool] * number) or len(set(clips)) < number:
        raise ValueError("its key is not that of a study")
    return Key(_entry(found, "a", str), _entry(found, "b", str), clips, x_is_a)


_NAMES = {str: "text", int: "a whole number", list: "a list"}
_Kind = TypeVar("_Kind", str, int, list)


def _entry(holder: Any, name: str, kind: type[_Kind]) -> _Kind:
    """An entry of an object of JSON. Raises ValueError where it is missing or of another type."""
    if not isinstance(holder, dict) or name not in holder:
        raise ValueError(f"{name} is missing")
    if type(holder[name]) is not kind:  # True is an int
        raise ValueError(f"{name} is {json.dumps(holder[name])[:40]}, not {_NAMES[kind]}")
    return holder[name]


def read_answers(path: pathlib.Path) -> tuple[Key, list[Answer]]:
    """The key and the answers in a file that the page saved.

    Raises UserError for a file that cannot be read, and for one that a page has not saved so: of
    other entries, or with two answers to one pair.
    """
    try:
        return _answers(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no answers of a study: {message_of(error)}") from error


def _answers(saved: Any) -> tuple[Key, list[Answer]]:
    """`read_answers` of what the JSON holds. Raises ValueError."""
    key, viewer = unseal(_entry(saved, "key", str)), _entry(saved, "viewer", str)
    if not viewer.strip():
        raise ValueError("viewer is empty: a name tells the answers of one viewer from another's")
    answers: dict[int, Answer] = {}
    for entry in _entry(saved, "answers", list):
        pair, answer = _entry(entry, "pair", int), _entry(entry, "answer", str)
        if not 0 <= pair < len(key.clips):
            raise ValueError(f"pair is {pair}, but there are pairs 0 to {len(key.clips) - 1}")
        if answer not in VALUES:
            raise ValueError(f"answer is {answer!r}, which is none of {', '.join(VALUES)}")
        if pair in answers:
            raise ValueError(f"pair {pair} is answered twice")
        value = VALUES[answer] if key.x_is_a[pair] else -VALUES[answer]
        answers[pair] = Answer(viewer, key.clips[pair], value)
    return key, list(answers.values())


def write_study(
    path: pathlib.Path,
    trials: Sequence[Trial],
    names: tuple[str, str],
    *,
    title: str,
    question: str,
    seed: int = 0,
    frames: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the page of a study.

    Args:
      path: ``*.html`` for one file, anything else for a folder.
      trials: the pairs; at least one.
      names: of a and b, for the key.
      title: of the page; viewers see it.
      question: what viewers are asked.
      seed: of which file shows which result.
      frames: the most frames of each clip; default: all.
      overwrite: whether to replace a page that exists.

    Raises:
      UserError: a file cannot be read, two results differ in size, or the page cannot be written.
    """
    if not trials:
        raise UserError(
            "there is no pair to show: --a and --b have no clip in common (two that are named "
            "themselves, not by their folders, need no common name)"
        )
    rng = np.random.default_rng(seed)
    first = np.arange(len(trials)) % 2 == 0  # as often x as y
    key = Key(*names, [trial.clip for trial in trials], rng.permutation(first).tolist())
    with new_page(path, overwrite=overwrite) as files:
        pairs = [
            _pair_json(index, trial, key.x_is_a[index], files, frames)
            for index, trial in enumerate(trials)
        ]
        contents = {"title": title, "question": question, "key": seal(key), "pairs": pairs}
        files.fill("study.html", title, SCRIPTS, contents)


def cut_clips(trials: Sequence[Trial], limit: int | None = None) -> list[str]:
    """The clips of which not all frames are shown, as the files of a pair differ in length.

    Args:
      trials: the pairs.
      limit: the most frames of each clip; None: all.

    Returns:
      For each such clip its name with the numbers of frames.
    """
    found = []
    for trial in trials:
        counts = [open_media(x).num_frames for x in (trial.a, trial.b, trial.low) if x is not None]
        if len({min(count, limit or count) for count in counts}) > 1:
            found.append(f"{trial.clip} ({', '.join(map(str, counts))} frames)")
    return found


def _pair_json(
    index: int, trial: Trial, x_is_a: bool, files: PageFiles, limit: int | None
) -> dict[str, Any]:
    media = [open_media(path) for path in ((trial.a, trial.b) if x_is_a else (trial.b, trial.a))]
    sizes = {(one.height, one.width) for one in media}
    if len(sizes) > 1:
        raise UserError(
            f"{trial.a} and {trial.b} differ in size, which viewers would see: bring them to one"
        )
    low = [open_media(trial.low)] if trial.low else []
    count = min([one.num_frames for one in media + low] + ([limit] if limit else []))
    rate = next((one.frame_rate for one in media if one.frame_rate), DEFAULT_RATE)
    copy = all(browsers_show(one, rate) for one in media)  # both, or neither: one quality
    height, width = sizes.pop()
    return {
        "height": height,
        "width": width,
        "pixel_aspect": float(media[0].sample_aspect_ratio),
        "frames": count,
        "rate": float(rate),
        "versions": {
            name: _version_json(f"{index:03d}-{name}", one, files, count, rate, copy)
            for name, one in zip(("x", "y", "input"), media + low, strict=False)
        },
    }


def _version_json(
    stem: str, media: Media, files: PageFiles, count: int, rate: Fraction, copy: bool
) -> dict[str, Any]:
    made = make_viewable(media, files.folder, stem, frames=count, rate=rate, copy=copy)
    return {
        "role": "input" if stem.endswith("input") else "result",
        "kind": made.kind,
        "source": files.address(made.path),
        "height": made.height,
        "width": made.width,
        "coded_height": made.coded_height,
        "coded_width": made.coded_width,
    }
