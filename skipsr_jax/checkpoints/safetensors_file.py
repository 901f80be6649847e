"""Reads safetensors files lazily, and writes them tensor by tensor.

A file is the length of its header (8 bytes, little-endian), the header as JSON ({name: {dtype,
shape, data_offsets}}, offsets from the end of the header), and the tensors' bytes, one after the
other (https://github.com/huggingface/safetensors#format). It is parsed here because the safetensors
package cannot return float8 tensors as numpy arrays. Invariant: a written file holds the same bytes
per tensor as its source.
"""

import itertools
import json
import math
import os
import pathlib
import struct

import numpy as np

from skipsr_jax.checkpoints.lazy import LazyTensor, dtype_named, pieces
from skipsr_jax.errors import UserError
from skipsr_jax.files import check_absent, new_file

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_NAMES = {dtype_named(numpy_name): name for name, numpy_name in _DTYPES.items()}

# The limit of the reference implementation. A larger length is a sign of another kind of file.
_MAX_HEADER_BYTES = 100_000_000


def _header(path: pathlib.Path) -> tuple[dict, int]:
    """The JSON header and the offset of the first tensor byte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise UserError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise UserError(f"{path}: not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a safetensors file (its header is not an object)")
    return header, 8 + length


def read(path: str | os.PathLike) -> dict[str, LazyTensor]:
    """Returns the tensors of a safetensors file by name, in the order of the file; loads none.

    Raises UserError when the file is missing, cut short, inconsistent or of an unknown dtype.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    header, base = _header(path)
    size = path.stat().st_size

    def lazy(name: str, entry: object) -> LazyTensor:
        try:
            code, shape = str(entry["dtype"]), tuple(entry["shape"])
            start, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: the header's entry for {name} is not valid") from None
        if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
            raise UserError(f"{path}: the header's entry for {name} is not valid")
        start, end = base + start, base + end
        if code not in _DTYPES:
            raise UserError(f"{path}: {name} has dtype {code}; known: {', '.join(_DTYPES)}")
        dtype = dtype_named(_DTYPES[code])
        want = math.prod(shape) * dtype.itemsize
        if end - start != want:
            raise UserError(f"{path}: {name} has {end - start} bytes, its shape needs {want}")
        if end > size:
            raise UserError(f"{path}: cut short: {name} ends at byte {end} of {size}")

        def load() -> np.ndarray:
            if want == 0:
                return np.zeros(shape, dtype)
            raw = np.memmap(path, np.uint8, mode="r", offset=start, shape=(want,))
            return raw.view(np.ndarray).view(dtype).reshape(shape)

        return LazyTensor(dtype, shape, load)

    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ordered = sorted(entries.items(), key=lambda item: _first_offset(item[1]))
    tensors = {name: lazy(name, entry) for name, entry in ordered}
    for (name, entry), (other, following) in itertools.pairwise(ordered):
        if following["data_offsets"][0] < entry["data_offsets"][1]:
            raise UserError(f"{path}: the bytes of {name} and {other} overlap")
    end = base + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end < size:
        raise UserError(
            f"{path}: damaged: {size - end} bytes follow the last tensor; copy the file anew"
        )
    return tensors


def _first_offset(entry: object) -> int:
    """The offset of an entry's first byte; 0 for an entry that `read` refuses afterwards."""
    match entry:
        case {"data_offsets": [int(first), *_]}:
            return first
    return 0


def write(path: str | os.PathLike, tensors: dict[str, LazyTensor]) -> None:
    """Writes ``tensors`` in their order; each is loaded once, and dropped when it is written.

    The file appears when it is complete. Raises UserError when ``path`` exists, ValueError when the
    format has no name for a dtype.
    """
    path = pathlib.Path(path)
    check_absent(path)
    header, offset = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name}: safetensors has no dtype {tensor.dtype}")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors start on a multiple of 8 bytes
    with new_file(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for piece in pieces(tensor):
                file.write(piece)
