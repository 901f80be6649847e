"""Writes a state dict in the zip format of torch.save, without torch.

``torch.load`` opens the file, with ``weights_only`` too. `torch_file` describes the format. The
pickle is written opcode by opcode, because the pickle module would need torch for torch's names.
Every tensor has a storage of its own, aligned to 64 bytes as torch.save does, so that
``torch.load(mmap=True)`` works. Invariant: one tensor is in memory at a time, and the file holds
its bytes unchanged.
"""

import os
import pathlib
import pickle
import struct
import zipfile

from skipsr_jax.checkpoints.lazy import LazyTensor, dtype_named, pieces
from skipsr_jax.checkpoints.torch_file import STORAGES, UNTYPED
from skipsr_jax.files import check_absent, new_file

_STORAGE_OF = {dtype_named(dtype): name for name, dtype in STORAGES.items()}
_NAME_OF = {dtype_named(name): name for name in UNTYPED}

_ALIGNMENT = 64  # bytes
_LOCAL_HEADER = 30  # bytes, before name and extra field
_ZIP64_EXTRA = 20  # bytes that zipfile adds to the local header of a large entry


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(9, "little")  # a leading zero byte keeps it positive
    return pickle.LONG1 + bytes([len(data)]) + data


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _call(function: bytes, arguments: bytes) -> bytes:
    return function + arguments + pickle.REDUCE


def _tensor(tensor: LazyTensor, key: str) -> bytes:
    """The opcodes that rebuild a contiguous tensor from storage ``key``."""
    stride, strides = 1, []
    for length in reversed(tensor.shape):
        strides.append(stride)
        stride *= max(length, 1)
    typed = tensor.dtype in _STORAGE_OF
    kind = (
        _name("torch", _STORAGE_OF[tensor.dtype])
        if typed
        else _name("torch.storage", "UntypedStorage")
    )
    count = tensor.size if typed else tensor.nbytes
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _integer(count))
    arguments = [
        storage + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, tensor.shape)),
        _tuple(*map(_integer, reversed(strides))),
        pickle.NEWFALSE,  # requires_grad
        _call(_name("collections", "OrderedDict"), pickle.EMPTY_TUPLE),  # hooks
    ]
    if typed:
        return _call(_name("torch._utils", "_rebuild_tensor_v2"), _tuple(*arguments))
    arguments.append(_name("torch", _NAME_OF[tensor.dtype]))
    return _call(_name("torch._utils", "_rebuild_tensor_v3"), _tuple(*arguments))


def _add(archive: zipfile.ZipFile, name: str, nbytes: int, data) -> None:
    """Adds an uncompressed entry whose data starts on a multiple of 64 bytes."""
    info = zipfile.ZipInfo(name)  # dated 1980: the same tensors give the same file
    large = nbytes >= zipfile.ZIP64_LIMIT
    start = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + (_ZIP64_EXTRA if large else 0)
    padding = -(start + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    info.file_size = nbytes
    with archive.open(info, "w", force_zip64=large) as entry:
        for piece in data:
            entry.write(piece)


def write(path: str | os.PathLike, tensors: dict[str, LazyTensor]) -> None:
    """Writes ``tensors`` as a dict in their order; each is loaded once.

    A single tensor of the name ``""`` is written without a dict. The file appears when it is
    complete. Raises UserError when ``path`` exists, ValueError when torch lacks a dtype.
    """
    path = pathlib.Path(path)
    check_absent(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORAGE_OF and tensor.dtype not in _NAME_OF:
            raise ValueError(f"{name}: torch has no dtype {tensor.dtype}")
    if list(tensors) == [""]:
        tree = _tensor(tensors[""], "0")
    else:
        items = (
            _text(name) + _tensor(tensor, str(i))
            for i, (name, tensor) in enumerate(tensors.items())
        )
        tree = pickle.EMPTY_DICT + pickle.MARK + b"".join(items) + pickle.SETITEMS
    tree = pickle.PROTO + b"\x02" + tree + pickle.STOP
    root = path.stem
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, f"{root}/data.pkl", len(tree), [tree])
        _add(archive, f"{root}/byteorder", 6, [b"little"])
        for i, tensor in enumerate(tensors.values()):
            _add(archive, f"{root}/data/{i}", tensor.nbytes, pieces(tensor))
        _add(archive, f"{root}/version", 2, [b"3\n"])
