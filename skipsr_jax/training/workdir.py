"""The workdir of a run: claimed by its settings, cleared of half-written checkpoints."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator

import jax

from skipsr_jax.checkpoints import store
from skipsr_jax.config import to_json
from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.workdir_lock import locked

IDENTITY = ("stage", "model")
"""Settings that a resumed run must share with the one that began in the workdir."""


@contextlib.contextmanager
def claimed(workdir: str, settings: Settings) -> Iterator[store.epath.Path]:
    """Makes the folder, if needed, holds its lock, and writes the settings into its config.json.

    Raises UserError, and changes nothing, when the folder holds a run of another stage or model, or
    when another run is in it.
    """
    folder = store.absolute(workdir)
    _check_identity(folder, settings)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                stack.enter_context(locked(folder))
                with new_file(folder / "config.json", overwrite=True) as temporary:
                    temporary.write_text(json.dumps(to_json(settings), indent=2))
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
        yield folder


def _check_identity(folder: store.epath.Path, settings: Settings) -> None:
    """Raises UserError when the folder holds a run of another stage or model."""
    path = folder / "config.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): name another --workdir") from error
        there, here = (
            {name: of.get(name) for name in IDENTITY} for of in (found, to_json(settings))
        )
        if there != here:
            differ = " and ".join(
                f"{name} {there[name]!r}, not {here[name]!r}"
                for name in IDENTITY
                if there[name] != here[name]
            )
            raise UserError(f"{folder} holds a run of {differ}: name another --workdir")


def set_aside_incomplete(directory: store.PathLike) -> None:
    """Renames half-copied step folders to ``<step>.incomplete``, and removes those that a run which
    was killed had begun to write, each with a warning. The workdir is this run's alone."""
    directory = store.absolute(directory)
    if not directory.is_dir() or jax.process_index() != 0:
        return
    for child in sorted(directory.iterdir()):
        if store.UNFINISHED in child.name:
            child.rmtree(missing_ok=True)
            logging.warning("removed %s, which an earlier run did not finish writing", child.name)
        if not child.name.isdigit():
            continue
        try:
            store.step_folder(child)
        except UserError as error:
            set_aside(child, "incomplete")
            logging.warning("ignored and set aside as %s.incomplete: %s", child.name, error)


def set_aside(step: store.epath.Path, reason: str) -> None:
    """Renames the folder of a step to ``<step>.<reason>``, or ``<step>.<reason>-2`` and so on."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    others = (step.with_name(f"{step.name}.{reason}{name}") for name in names)
    step.rename(next(other for other in others if not other.exists()))
