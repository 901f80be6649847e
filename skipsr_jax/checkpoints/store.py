"""Reads and writes Orbax checkpoints: the parameters of a model or of a training run.

    <folder>/<step>/state    nested string-keyed dict: params, and in training ema, opt_state, step
    <folder>/<step>/config   JSON: the model dataclasses, tau, sources, format_version, checksums

In a model checkpoint ``params`` is any subset of {dit, vae, light_coder, predictor, text:
{positive, negative}, sharp: {change, scale}}; ``sharp`` is of ``models.sharpness``. Every function
takes a model folder, a workdir (then its ``checkpoints``), or one step's folder, local (also
relative) or on ``gs://``. Invariant: what is restored never depends on the topology that saved it,
and a folder under its final name is complete.
"""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from skipsr_jax.checkpoints import config_item
from skipsr_jax.checkpoints.array_reader import cast, read_arrays
from skipsr_jax.checkpoints.checksums import device_checksums, host_checksums
from skipsr_jax.checkpoints.damage import damage_as_one_line, quiet_after_failure
from skipsr_jax.checkpoints.public_weights import where_to_get
from skipsr_jax.checkpoints.streaming import CHUNK_BYTES, state_handler
from skipsr_jax.disk_space import disk_errors_as_one_line, require_space
from skipsr_jax.errors import UserError
from skipsr_jax.files import check_absent, new_folder
from skipsr_jax.models.params import Params, flatten, nbytes, shape_mismatches, unflatten

UNFINISHED = ".orbax-checkpoint-tmp"
"""Part of the names of folders that Orbax has not finished writing, on file systems that rename."""

# Frequencies of the rotary embedding: bfloat16's 8 bits of mantissa would move the positions.
# Quantised kernels (models/quantized_params.py) mean nothing in another dtype than their scales'.
NEVER_CAST = ("rope_freqs", "quantized_kernel")

_WRITE_GB = 1  # what Orbax may hold in memory on top of the arrays themselves
_CASTING_THREADS = 8
_TIMES_ABSENT, _CHECK_SECONDS = 3, 0.1
PathLike = str | os.PathLike


def absolute(path: PathLike) -> epath.Path:
    """Returns ``path`` as an absolute path; a ``gs://`` address is returned as it is.

    Orbax fails in a background thread on relative paths. Raises UserError for other kinds of
    address, and for ``gs://`` where the package that reads it is not installed.
    """
    text = os.fspath(path)
    scheme, remote, _ = text.partition("://")
    if not remote:
        return epath.Path(os.path.abspath(os.path.expanduser(text)))
    if scheme != "gs":
        raise UserError(f"{text}: a folder is a local one or gs://bucket/name, not {scheme}://")
    import fsspec  # for gs:// alone: 0.1 s

    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError as error:
        raise UserError(f"{text}: gs:// needs the package gcsfs: pip install gcsfs") from error
    return epath.Path(text)


def _steps(folder: epath.Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit())


def step_folder(path: PathLike, step: int | None = None) -> epath.Path:
    """Returns the folder of ``step`` (default: the last one) under ``path``, if it is complete.

    Raises UserError when the path does not exist, holds no checkpoint, or holds a half-written one.
    """
    root = absolute(path)
    if not root.exists():
        raise UserError(
            f"{root}: no such checkpoint; name a folder that train.py, checkpoints.convert or "
            f"checkpoints.export wrote{where_to_get(str(root))}"
        )
    if not root.is_dir():
        raise UserError(f"{root}: a file; a checkpoint is a folder (see checkpoints.convert)")
    found = root
    if not (root / "state").exists() and not (root / "config").exists():
        folder = next((f for f in (root, root / "checkpoints") if _steps(f)), None)
        if folder is None:
            inside = [
                child.name
                for f in (root, root / "checkpoints")
                if f.is_dir()
                for child in f.iterdir()
            ]
            if any(UNFINISHED in name for name in inside):
                raise UserError(f"{root}: only a half-written checkpoint; its writer was stopped")
            raise UserError(f"{root}: not a checkpoint (no <step>/state inside)")
        steps = _steps(folder)
        if step is not None and step not in steps:
            raise UserError(f"{folder}: has no step {step}; it has {', '.join(map(str, steps))}")
        found = folder / str(steps[-1] if step is None else step)
    marks = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "config/metadata")
    absent = [mark for mark in marks if not (found / mark).exists()]
    if absent:
        raise UserError(f"{found}: half-written or half-copied ({', '.join(absent)} missing)")
    return found


def load_config(path: PathLike, step: int | None = None) -> dict[str, Any]:
    """Returns the config JSON of a checkpoint.

    Raises UserError as `step_folder` and `config_item.read` do.
    """
    return config_item.read(step_folder(path, step))


def stored_shapes(path: PathLike, step: int | None = None, branch: str = "params") -> Params:
    """Returns the arrays of a checkpoint as ShapeDtypeStructs, nested as stored; reads none.

    ``branch`` is ``params``, or ``ema`` in a training checkpoint. Raises UserError as `step_folder`
    does, and when the checkpoint lacks the branch.
    """
    found = step_folder(path, step)
    with damage_as_one_line(found):
        tree = ocp.PyTreeCheckpointHandler().metadata(found / "state").tree
        if branch not in tree:
            raise UserError(f"{found}: has no {branch!r}; it has {', '.join(sorted(tree))}")
        stored = flatten(tree[branch])
        return unflatten(
            {k: jax.ShapeDtypeStruct(m.shape, np.dtype(m.dtype)) for k, m in stored.items()}
        )


def best_branch(path: PathLike) -> str:
    """Returns ``ema`` if a checkpoint has averaged parameters, else ``params``."""
    try:
        stored_shapes(path, branch="ema")
    except UserError:
        return "params"
    return "ema"


def _check_fit(found: epath.Path, stored: Params, abstract: Params) -> None:
    wrong = shape_mismatches(flatten(abstract), flatten(stored))
    if wrong:
        first = "; ".join(wrong[:12]) + (f"; and {len(wrong) - 12} more" if len(wrong) > 12 else "")
        raise UserError(f"{found}: holds another model, {len(wrong)} arrays differ: {first}")


def _selected(found: epath.Path, stored: Params, only: Iterable[str] | None) -> Params:
    if only is None:
        return stored
    absent = [name for name in only if name not in stored]
    if absent:
        raise UserError(f"{found}: has no {', '.join(absent)}; it has {', '.join(sorted(stored))}")
    return {name: stored[name] for name in only}


def open_params(
    path: PathLike,
    abstract: Params | None = None,
    shardings: jax.sharding.Sharding | Params | None = None,
    dtype: Any = None,
    only: Iterable[str] | None = None,
    *,
    branch: str = "params",
    step: int | None = None,
) -> Params:
    """Returns what `read_params` will return, as ShapeDtypeStructs with shardings; reads no array.

    Arguments and errors: as of `restore_params`.
    """
    found = step_folder(path, step)
    if only is None and abstract is not None:
        only = tuple(abstract)
    wanted = _selected(found, stored_shapes(found, branch=branch), only)
    if abstract is not None:
        known = {name: tree for name, tree in wanted.items() if name in abstract}
        _check_fit(found, known, {name: abstract[name] for name in known})
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(shardings, dict):
        shardings = {name: shardings[name] for name in wanted}
    flat, sharding_of = flatten(wanted), flatten(jax.tree.broadcast(shardings, wanted))

    def target(key: str) -> np.dtype:
        floating = jax.numpy.issubdtype(flat[key].dtype, jax.numpy.floating)
        keep = dtype is None or not floating or key.rsplit("/", 1)[-1] in NEVER_CAST
        return flat[key].dtype if keep else np.dtype(dtype)

    return unflatten(
        {
            key: jax.ShapeDtypeStruct(leaf.shape, target(key), sharding=sharding_of[key])
            for key, leaf in flat.items()
        }
    )


def read_params(
    path: PathLike, shapes: Params, *, branch: str = "params", step: int | None = None
) -> Params:
    """Returns the arrays of which `open_params` returned the ``shapes``.

    Raises DamagedCheckpointError when files of the checkpoint are damaged.
    """
    found = step_folder(path, step)
    targets, checksums = flatten(shapes), load_config(found).get("checksums")
    stored = flatten(stored_shapes(found, branch=branch))
    wanted = {name: stored[name] for name in targets}

    params: dict[str, jax.Array] = {}
    with ThreadPoolExecutor(_CASTING_THREADS) as pool:
        for batch in read_arrays(found, branch, wanted, checksums):

            def on_devices(name: str, batch=batch) -> jax.Array:
                target = targets[name]
                array = cast(batch.pop(name), target.dtype)
                return jax.make_array_from_callback(array.shape, target.sharding, array.__getitem__)

            names = list(batch)
            params |= zip(names, pool.map(on_devices, names), strict=True)
    return unflatten(params)


def restore_params(
    path: PathLike,
    abstract: Params | None = None,
    shardings: jax.sharding.Sharding | Params | None = None,
    dtype: Any = None,
    only: Iterable[str] | None = None,
    *,
    branch: str = "params",
    step: int | None = None,
) -> Params:
    """Returns the parameters of a checkpoint as jax arrays; any devices may have saved them.

    Args:
      path: a model folder, workdir or step folder.
      abstract: what is expected (arrays or ShapeDtypeStructs), e.g. ``{"dit": to_dict(...)}``;
        keys and shapes are checked, dtypes are not. Parts of ``only`` that it lacks are not
        checked.
      shardings: one sharding for all arrays, or a nested dict of them, in which one may stand for
        all arrays below; default: the first local device.
      dtype: a floating dtype to cast floating arrays to (rope_freqs and quantised kernels aside);
        default: as stored.
      only: the parts to read, e.g. ``("vae",)``; default: those of ``abstract``, or all.
      branch: ``params`` or ``ema``.
      step: the step to read; default: the last one.

    Raises:
      UserError: there is no complete checkpoint, a part is missing, or keys or shapes differ.
    """
    where = {"branch": branch, "step": step}
    return read_params(path, open_params(path, abstract, shardings, dtype, only, **where), **where)


def restore_host(
    path: PathLike,
    only: Iterable[str] | None = None,
    *,
    paths: Iterable[str] | None = None,
    branch: str = "params",
    step: int | None = None,
) -> Params:
    """Returns the parameters as numpy arrays in their stored dtypes; uses no device.

    ``paths`` selects single arrays (``dit/vid_in/kernel``), so that a checkpoint larger than memory
    can be read piece by piece. Raises UserError as `restore_params` does.
    """
    found = step_folder(path, step)
    flat = flatten(_selected(found, stored_shapes(found, branch=branch), only))
    if paths is not None:
        flat = {key: flat[key] for key in paths}
    arrays: dict[str, np.ndarray] = {}
    for batch in read_arrays(found, branch, flat, load_config(found).get("checksums")):
        arrays |= batch
    return unflatten(arrays)


def save_model(
    path: PathLike, params: Params, config: dict[str, Any], *, step: int = 0, card: str = ""
) -> epath.Path:
    """Writes a model checkpoint and returns its folder.

    ``format_version``, the checksums of the arrays and the digest of all that are added to
    ``config``. ``card``: the text of a README.md beside the step; "": none.

    It is written under a temporary name, then renamed (on ``gs://`` Orbax's own commit marker
    stands for that). Raises UserError when ``path`` holds anything already, or when the disk has
    not the space for it, ValueError when params nest wrongly.
    """
    root = absolute(path)
    check_absent(root, folder=True)
    check_plain(params)
    if "://" in os.fspath(root):
        root.mkdir(parents=True)
        _write_model(root, params, config, step, card)
    else:
        require_space(pathlib.Path(root), nbytes(params), "the checkpoint")
        with (
            disk_errors_as_one_line(root),
            new_folder(pathlib.Path(root)) as folder,
            _removed_after_failure(folder),
            quiet_after_failure(),
        ):
            _write_model(epath.Path(folder), params, config, step, card)
    return root


@contextlib.contextmanager
def _removed_after_failure(folder: pathlib.Path) -> Iterator[None]:
    """Removes the folder after an exception, until it stays away.

    TensorStore's threads go on with what they were asked to write, and make its folders anew.
    """
    try:
        yield
    except BaseException:
        absent = 0
        while absent < _TIMES_ABSENT:
            absent = 0 if folder.exists() else absent + 1
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(_CHECK_SECONDS)
        raise


def _write_model(
    folder: epath.Path, params: Params, config: dict[str, Any], step: int, card: str
) -> None:
    if card:
        (folder / "README.md").write_text(card)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    handlers = {"state": state_handler(_WRITE_GB), "config": ocp.JsonCheckpointHandler()}
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave({"params": params}, save_args={"params": save_args}),
                config=ocp.args.JsonSave(config_item.facts(config, _checksums(params))),
            ),
        )


def _checksums(params: Params) -> dict[str, str]:
    """Of the arrays of a model by ``params/path``, as `train_state.save_step` names them."""
    flat = flatten({"params": params})
    over_hosts = [
        name
        for name, leaf in flat.items()
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    ]
    spread = {name: flat.pop(name) for name in over_hosts}
    return host_checksums(flat) | device_checksums(spread)


def check_plain(params: dict, prefix: str = "") -> None:
    """Raises ValueError unless ``params`` is nested string-keyed dicts down to arrays."""
    for key, value in params.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"{prefix}{key!r}: keys must be non-empty strings without '/'")
        if isinstance(value, dict):
            check_plain(value, f"{prefix}{key}/")
        elif not isinstance(value, (jax.Array, np.ndarray)):
            raise ValueError(f"{prefix}{key}: {type(value).__name__}, not an array or a dict")
