"""Gathers official tensors into our stacked arrays and scatters them back, through files.

One array of ours holds a tensor of every layer. It is put together in a file and handed on as a
memory map, so that no more than one tensor is in memory: arrays may be larger than memory.
Invariant: dtypes are kept. Where the layers of a stack differ in dtype, the array has the smallest
dtype that holds all of them exactly, and the original dtypes are recorded, so that scattering gives
the same bytes.
"""

import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from skipsr_jax.checkpoints.keys import Entry
from skipsr_jax.checkpoints.lazy import LazyTensor, dtype_named
from skipsr_jax.disk_space import allocate
from skipsr_jax.errors import UserError

# (name, bits of mantissa, bits of exponent): enough to say which float type holds another.
_FLOATS = (
    ("float8_e4m3fn", 3, 4), ("float8_e5m2", 2, 5), ("float16", 10, 5), ("bfloat16", 7, 8),
    ("float32", 23, 8), ("float64", 52, 11),
)  # fmt: skip
_PRECISION = {dtype_named(name): (mantissa, exponent) for name, mantissa, exponent in _FLOATS}


def common_dtype(dtypes: Iterable[np.dtype], path: str) -> np.dtype:
    """The smallest float dtype that holds all of ``dtypes`` exactly (a lone dtype is itself)."""
    distinct = set(dtypes)
    if len(distinct) == 1:
        return distinct.pop()
    if distinct - _PRECISION.keys():
        raise UserError(f"{path}: its layers mix dtypes {', '.join(sorted(map(str, distinct)))}")
    mantissa = max(_PRECISION[dtype][0] for dtype in distinct)
    exponent = max(_PRECISION[dtype][1] for dtype in distinct)
    return next(d for d, (m, e) in _PRECISION.items() if m >= mantissa and e >= exponent)


def by_path(entries: list[Entry]) -> dict[str, list[Entry]]:
    """The entries of each of our arrays, in layer order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.path, []).append(entry)
    return groups


def mixed_dtypes(entries: list[Entry], tensors: dict[str, LazyTensor]) -> dict[str, str]:
    """{official name: dtype} of the tensors that change dtype because their stack is mixed."""
    mixed = {}
    for path, group in by_path(entries).items():
        named = [entry.official for entry in group if entry.official is not None]
        common = common_dtype([tensors[name].dtype for name in named], path)
        mixed |= {name: tensors[name].dtype.name for name in named if tensors[name].dtype != common}
    return mixed


def _map(file: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...], mode: str) -> np.ndarray:
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if mode == "w+":
        allocate(file, max(nbytes, 1))
        mode = "r+"
    raw = np.memmap(file, np.uint8, mode=mode, shape=(max(nbytes, 1),))
    return raw[:nbytes].view(np.ndarray).view(dtype).reshape(shape)


def gather(
    entries: list[Entry],
    tensors: dict[str, LazyTensor],
    folder: pathlib.Path,
    done: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, np.ndarray]:
    """Our arrays {path: array}, put together in files of ``folder`` and mapped from there.

    ``tensors`` must fit ``entries`` (see `keys.mismatches`). ``done`` is called after each tensor
    with its number of bytes.
    """
    arrays = {}
    for number, (path, group) in enumerate(by_path(entries).items()):
        dtype = common_dtype([tensors[e.official].dtype for e in group if e.official], path)
        layer_shape = group[0].to_ours(np.broadcast_to(np.uint8(0), group[0].shape)).shape
        stacked = group[0].layer is not None
        shape = (len(group), *layer_shape) if stacked else layer_shape
        file = folder / f"{number:04}"
        for index, entry in enumerate(group):
            if entry.official is None:
                continue  # the file starts as zeros
            # Mapped anew for each tensor: what is unmapped counts as no memory.
            array = _map(file, dtype, shape, "r+" if file.exists() else "w+")
            layer = array[index] if stacked else array
            layer[...] = entry.to_ours(tensors[entry.official].load())
            done(tensors[entry.official].nbytes)
            del array, layer
        arrays[path] = _map(file, dtype, shape, "r")
    return arrays


def scatter(
    entries: list[Entry],
    stored: dict[str, np.dtype],
    read: Callable[[str], np.ndarray],
    original: dict[str, str],
    folder: pathlib.Path,
) -> dict[str, LazyTensor]:
    """The inverse of `gather`: the official tensors, by name, read when they are loaded.

    Each of our arrays is read once, when the first of its tensors is loaded.

    Args:
      entries: the entries of the network.
      stored: the dtype of each of our arrays, by path.
      read: returns one of our arrays, given its path.
      original: what `mixed_dtypes` returned.
      folder: an empty folder for files, one for each array whose tensors are being loaded.
    """
    tensors = {}
    for number, (path, group) in enumerate(by_path(entries).items()):
        file, layers = folder / f"{number:04}", len(group)

        def load_layer(entry: Entry, path=path, file=file, layers=layers) -> np.ndarray:
            ours = entry.to_ours(np.broadcast_to(np.uint8(0), entry.shape)).shape
            shape = ours if entry.layer is None else (layers, *ours)
            if not file.exists():
                array = read(path)
                if array.shape != shape or array.dtype != stored[path]:
                    raise ValueError(f"{path}: read {array.dtype}{array.shape}, expected {shape}")
                _map(file, stored[path], shape, "w+")[...] = array
            whole = _map(file, stored[path], shape, "r")
            return whole if entry.layer is None else whole[entry.layer]

        for entry in group:
            if entry.official is None:
                continue
            dtype = dtype_named(original.get(entry.official, stored[path].name))

            def load(entry=entry, load_layer=load_layer, dtype=dtype) -> np.ndarray:
                return np.asarray(entry.to_official(load_layer(entry)), dtype)

            tensors[entry.official] = LazyTensor(dtype, entry.shape, load)
    return tensors
