"""Saves and restores the state of a training run with Orbax's CheckpointManager.

``state`` may hold optimizer states (named tuples). On disk they are flat string-keyed dicts, and
restoring returns them in the caller's own structure. Invariant: what is restored ``like`` a state
equals what was saved, on any mesh: each array has a checksum in the config item.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from skipsr_jax.checkpoints import config_item
from skipsr_jax.checkpoints.array_reader import check_equal, say_unverified
from skipsr_jax.checkpoints.checksums import device_checksums
from skipsr_jax.checkpoints.damage import (
    DamagedCheckpointError,
    damage_as_one_line,
    first_words,
    quiet_after_failure,
)
from skipsr_jax.checkpoints.store import PathLike, absolute, load_config
from skipsr_jax.disk_space import disk_words
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten, shape_mismatches

# What Orbax and TensorStore raise for files that are missing, cut short or changed, beside a bare
# Exception. Errors of the devices, such as too little memory, are not among them: the checkpoint
# would be set aside.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, AssertionError)


def _is_plain(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in tree.items())
    return isinstance(tree, (jax.Array, np.ndarray, jax.ShapeDtypeStruct, int, float))


def _to_plain(tree: Any) -> Any:
    """``tree`` itself when it is nested string-keyed dicts, else {path: leaf}."""
    if _is_plain(tree):
        return tree
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _from_plain(plain: Any, like: Any) -> Any:
    if _is_plain(like):
        return plain
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    keys = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return jax.tree_util.tree_unflatten(structure, [plain[key] for key in keys])


def open_manager(
    directory: PathLike, *, max_to_keep: int | None = 3, save_interval_steps: int = 1
) -> ocp.CheckpointManager:
    """Opens the manager of ``directory`` (a workdir's ``checkpoints``), which is made if needed.

    Saving runs in the background: call ``wait_until_finished()`` or ``close()`` at the end.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, save_interval_steps=save_interval_steps, create=True
    )
    return ocp.CheckpointManager(absolute(directory), options=options)


def save_step(
    manager: ocp.CheckpointManager,
    step: int,
    state: dict[str, Any],
    config: dict[str, Any],
    *,
    force: bool = False,
) -> bool:
    """Starts saving ``step``; returns whether it does.

    It does not when the step has been saved already, or is not due and ``force`` is False.

    Args:
      manager: from `open_manager`.
      step: the number of finished optimizer steps.
      state: {params, and optionally ema, opt_state, step, ...}: arrays in any pytree. Random keys
        as ``jax.random.key_data``.
      config: the JSON item; `config_item.facts` adds to it.
      force: save also when ``save_interval_steps`` says that the step is not due.

    Raises:
      UserError: the folder is gone, or this save or the one before it fails.
    """
    directory = absolute(manager.directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: is no folder any more; checkpoint {step} cannot be saved")
    if step in manager.all_steps():
        return False
    plain = {name: _to_plain(part) for name, part in state.items()}
    facts = config_item.facts(config, device_checksums(plain))
    items = {"state": ocp.args.StandardSave(plain), "config": ocp.args.JsonSave(facts)}
    with _one_line_for_failures(manager):
        return manager.save(step, args=ocp.args.Composite(**items), force=force)


def finish_saving(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is on disk. Raises UserError when it cannot be written."""
    with _one_line_for_failures(manager):
        manager.wait_until_finished()


def close_quietly(manager: ocp.CheckpointManager) -> None:
    """Closes a manager whose saves `finish_saving` has waited for, or that has failed already."""
    with contextlib.suppress(Exception):
        manager.close()


@contextlib.contextmanager
def _one_line_for_failures(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Turns whatever a save ends in, also one that began earlier, into a UserError."""
    try:
        yield
    except Exception as error:
        kept = _complete_steps(manager)
        last = f"the last one is {max(kept)}" if kept else "there is none yet"
        raise UserError(
            f"{manager.directory}: a checkpoint cannot be saved, {last}: "
            f"{disk_words(error) or first_words(error)}"
        ) from error


def _complete_steps(manager: ocp.CheckpointManager) -> list[int]:
    """The steps on disk, which the manager does not know after a failure."""
    directory = absolute(manager.directory)
    names = [child.name for child in directory.iterdir()] if directory.is_dir() else []
    return [int(name) for name in names if name.isdigit()]


def restore_step(
    manager: ocp.CheckpointManager, like: dict[str, Any], step: int | None = None
) -> dict[str, Any]:
    """Returns the state of ``step`` (default: the last one) in the structure of ``like``.

    The leaves of ``like`` are arrays or ShapeDtypeStructs; the result has their shardings.

    Raises UserError when there is no such step, or when the state has other keys or shapes, and
    DamagedCheckpointError when it cannot be read or its checksums do not match.
    """
    step = manager.latest_step() if step is None else step
    if step is None or step not in manager.all_steps():
        raise UserError(f"{manager.directory}: has no checkpoint" + (f" {step}" if step else ""))
    folder = absolute(manager.directory) / str(step)
    plain = {name: _to_plain(part) for name, part in like.items()}
    wrong = shape_mismatches(flatten(plain), _stored(folder))
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"{folder}: does not fit this run's model and optimizer: {'; '.join(wrong[:4])}{more}"
        )
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(plain))
    try:
        with quiet_after_failure():
            state = manager.restore(step, args=wanted)["state"]
    except PermissionError as error:
        raise UserError(f"{folder}: {error}") from error
    except Exception as error:
        if not isinstance(error, _UNREADABLE) and type(error) is not Exception:
            raise
        raise DamagedCheckpointError(f"{folder}: {first_words(error)}") from error
    _verify(folder, state)
    return {name: _from_plain(state[name], part) for name, part in like.items()}


def _stored(folder: epath.Path) -> dict[str, Any]:
    """What a step holds, by path, as its metadata says."""
    with damage_as_one_line(folder):
        return flatten(ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree)


def _verify(folder: epath.Path, state: dict[str, Any]) -> None:
    """Raises DamagedCheckpointError unless the arrays are those that were saved."""
    try:
        saved = load_config(folder).get("checksums")
    except UserError as error:
        raise DamagedCheckpointError(str(error)) from error
    if saved is None:
        say_unverified(str(folder))
    else:
        check_equal(folder, device_checksums(state), saved)
