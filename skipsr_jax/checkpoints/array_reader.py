"""Reads the arrays of one step's folder to the host, and compares their checksums.

Arrays are read in batches, so that memory on the host is bounded whatever the model. Invariant:
what is yielded equals what was saved, for checkpoints that have checksums.
"""

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from skipsr_jax.checkpoints.checksums import host_checksums
from skipsr_jax.checkpoints.damage import DamagedCheckpointError, damage_as_one_line
from skipsr_jax.models.params import flatten, nbytes, unflatten
from skipsr_jax.types import HostArray

# What Orbax may hold in memory on top of the arrays themselves. Several arrays are read at a time:
# the largest of a 3B model are 1 GB each.
_READ_GB = 4
_BATCH_BYTES = 2 << 30
"""Every restore takes a while, so a batch is large."""
_CAST_ELEMENTS = 1 << 16


def read_arrays(
    folder: epath.Path,
    branch: str,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    checksums: Mapping[str, str] | None,
) -> Iterator[dict[str, HostArray]]:
    """The arrays of ``branch`` by their paths in it, as stored, batch by batch in their order.

    Args:
      folder: of one step.
      branch: ``params`` or ``ema``.
      wanted: paths, with shapes and dtypes as stored.
      checksums: by ``branch/path``; None where the checkpoint has none, which is logged.

    Raises:
      DamagedCheckpointError: an array cannot be read, or is not what was saved.
    """
    if checksums is None:
        say_unverified(str(folder))
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=_READ_GB)
    for batch in batches(wanted, _BATCH_BYTES):
        args = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in batch}
        arguments = ocp.args.PyTreeRestore(
            item={branch: unflatten(batch)},
            restore_args={branch: unflatten(args)},
            partial_restore=True,
        )
        with damage_as_one_line(folder):
            arrays = flatten(handler.restore(folder / "state", args=arguments)[branch])
        if checksums is not None:
            found = host_checksums(arrays)
            check_equal(folder, {f"{branch}/{path}": c for path, c in found.items()}, checksums)
        yield arrays


def cast(array: HostArray, dtype: np.dtype) -> HostArray:
    """The array in ``dtype``, in its own memory where that suffices, which it then overwrites.

    Fresh memory would take more time than the cast.
    """
    if array.dtype == dtype:
        return array
    flat = array.reshape(-1)
    fits = dtype.itemsize <= array.dtype.itemsize
    result = flat.view(dtype)[: flat.size] if fits else np.empty(flat.size, dtype)
    for start in range(0, flat.size, _CAST_ELEMENTS):  # a part never overwrites a later one
        part = slice(start, start + _CAST_ELEMENTS)
        result[part] = flat[part].astype(dtype)
    return result.reshape(array.shape)


def check_equal(folder: epath.Path, found: Mapping[str, str], checksums: Mapping[str, str]) -> None:
    """Raises DamagedCheckpointError unless each checksum that was found is the saved one."""
    wrong = [name for name, checksum in found.items() if checksums.get(name) != checksum]
    if wrong:
        more = f", and those of {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
        raise DamagedCheckpointError(
            f"{folder}: the checksum of {wrong[0]} does not match{more}: the files are damaged, "
            "copy or make them again"
        )


@functools.cache
def say_unverified(folder: str) -> None:
    """Logs it once for a folder, which may be read in many calls."""
    logging.warning("%s: saved by a version without checksums; it is not verified", folder)


def batches(wanted: Mapping[str, Any], most_bytes: int) -> Iterator[dict[str, Any]]:
    """Consecutive arrays that together have at most ``most_bytes``, or one that has more.

    ``wanted``: arrays or what describes them, by path.
    """
    batch: dict[str, Any] = {}
    filled = 0
    for path, leaf in wanted.items():
        if batch and filled + nbytes(leaf) > most_bytes:
            yield batch
            batch, filled = {}, 0
        batch[path] = leaf
        filled += nbytes(leaf)
    if batch:
        yield batch
