"""Reads files of torch.save (.pth, .pt) without torch, and without executing their pickle.

A file is a pickle of a nested dict whose tensors are (storage, offset, size, stride), and the
storages' bytes. Since torch 1.6 both are entries of a zip file: <name>/data.pkl, and
<name>/data/<key> for each storage. In older files the storages follow the pickle. The pickle is
read by an unpickler that knows the few names that weights need and refuses all others; torch's
``weights_only=True`` works alike. Invariants: reading never calls a function that a file names;
each tensor is memory-mapped on its own; time and memory are bounded by the size of the file,
whatever it says of itself: nothing is decompressed, and no tensor has more elements than its
storage.
"""

import collections
import math
import os
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from skipsr_jax.checkpoints.lazy import LazyTensor, dtype_named
from skipsr_jax.errors import UserError

# Names of typed storages in torch -> dtype.
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
# Dtypes that have no typed storage in torch: their tensors name the dtype themselves.
UNTYPED = (
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "uint16", "uint32", "uint64",
)  # fmt: skip

# What torch.save writes. Without the others, which build sets, byte arrays and instances, no pickle
# can take more memory or time than its length allows.
_OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT",
    "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1",
    "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "BUILD", "PERSID", "BINPERSID",
)  # fmt: skip
_MAX_DEPTH = 32
"""Dicts within dicts. Training states have five or six."""
_MAX_NAME = 512
"""Characters of a tensor's dotted name."""

# The first two pickled objects of a file written before torch 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class _Storage:
    """A contiguous range of bytes that tensors are views of. ``dtype`` is None when untyped."""

    key: str
    dtype: np.dtype | None
    count: int  # of elements, or of bytes when untyped


class _Inert:
    """A placeholder for classes that a file names and of which no instance is needed."""


class _Unpickler(pickle._Unpickler):
    """Builds dicts, lists, numbers, strings and LazyTensors; refuses every other name.

    It derives from the unpickler in Python: that in C allocates a table as long as the largest
    number in a memo instruction, and hashes keys that are tuples of tuples of tuples.
    """

    dispatch: ClassVar[dict[int, Callable]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in _OPCODES
    }

    def __init__(self, file, source: str, reader: Callable[[_Storage], Callable[[], np.ndarray]]):
        super().__init__(file, encoding="utf-8")
        self._source, self._reader = source, reader
        self._names = {
            ("collections", "OrderedDict"): _new_dict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._untyped_tensor,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
            ("torch", "Tensor"): _Inert,
            ("torch", "Size"): tuple,
            ("torch.nn.parameter", "Parameter"): _Inert,
            ("torch.storage", "UntypedStorage"): "untyped",
            ("torch", "UntypedStorage"): "untyped",
            **{("torch", name): dtype_named(dtype) for name, dtype in STORAGES.items()},
            **{("torch", name): dtype_named(name) for name in (*STORAGES.values(), *UNTYPED)},
        }

    def find_class(self, module: str, name: str):
        try:
            return self._names[module, name]
        except KeyError:
            raise UserError(
                f"{self._source}: holds a {module}.{name}, which is not weights; save the model's "
                "state_dict() alone and convert that file"
            ) from None

    def load_setitem(self) -> None:
        """Refuses keys whose hash may take long."""
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Refuses keys whose hash may take long."""
        self._check_keys(self.stack[0::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """Refuses keys whose hash may take long."""
        self._check_keys(self.stack[0::2])
        super().load_dict()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict

    def _check_keys(self, keys: list) -> None:
        if not all(isinstance(key, str | int) for key in keys):
            raise pickle.UnpicklingError("a key that is neither text nor a number")

    def persistent_load(self, pid: object) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("unknown kind of storage")
        _, kind, key, _, count, *view = pid
        if any(part is not None for part in view):
            raise UserError(f"{self._source}: a storage that is part of another is not supported")
        dtype = kind if isinstance(kind, np.dtype) else None
        return _Storage(str(key), dtype, int(count))

    def _tensor(self, storage, offset, size, stride, *_) -> LazyTensor:
        return self._view(storage, storage.dtype, offset, size, stride)

    def _untyped_tensor(
        self, storage, offset, size, stride, _grad, _hooks, dtype, *_
    ) -> LazyTensor:
        return self._view(storage, dtype, offset, size, stride)

    def _view(self, storage, dtype, offset, size, stride) -> LazyTensor:
        """A lazy strided view of a storage; its bounds are checked before anything is read."""
        if not isinstance(storage, _Storage) or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("a tensor without a storage")
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        nbytes = storage.count * (storage.dtype.itemsize if storage.dtype else 1)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0:
            raise pickle.UnpicklingError("a tensor of negative size")
        if 0 not in size and (last + 1) * dtype.itemsize > nbytes:
            raise UserError(f"{self._source}: a tensor reaches beyond its storage {storage.key}")
        if math.prod(size) * dtype.itemsize > nbytes:
            raise UserError(
                f"{self._source}: a tensor has more elements than its storage {storage.key}; save "
                "it anew after contiguous()"
            )
        read = self._reader(storage)

        def load() -> np.ndarray:
            if 0 in size:
                return np.zeros(size, dtype)
            raw = read()[offset * dtype.itemsize : (last + 1) * dtype.itemsize]
            return np.ndarray(size, dtype, raw, strides=[step * dtype.itemsize for step in stride])

        return LazyTensor(dtype, size, load)


def _new_dict() -> dict:
    return collections.OrderedDict()


def _first(tensor: object, *_: object) -> object:
    return tensor


def _rebuild_from_type(build: object, _kind: object, args: tuple, _state: object) -> object:
    # ``build`` was looked up by find_class, so it is a function of this module.
    return build(*args)


def _map(path: pathlib.Path, start: int, nbytes: int, crc32: int = 0) -> Callable[[], np.ndarray]:
    """A function that maps ``nbytes`` bytes of a file; the mapping lives as long as the array.

    The first call compares their checksum with ``crc32``, unless that is 0: torch can be told to
    write none.
    """
    unchecked = [crc32] if crc32 else []

    def read() -> np.ndarray:
        content = np.memmap(path, np.uint8, mode="r", offset=start, shape=(nbytes,))
        if unchecked and zlib.crc32(content) != unchecked.pop():
            raise UserError(
                f"{path}: damaged: the {nbytes} bytes at {start} have another checksum than the "
                "file states; copy it anew"
            )
        return content.view(np.ndarray)

    return read


def _nbytes(storage: _Storage) -> int:
    return storage.count * (storage.dtype.itemsize if storage.dtype else 1)


def _read_zip(path: pathlib.Path) -> object:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip file, but not one written by torch.save")
        root = pickles[0].removesuffix("data.pkl")
        for info in entries.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path}: compressed zip entries, which torch.save does not write")
        order = archive.read(root + "byteorder") if root + "byteorder" in entries else b"little"
        if order.strip() != b"little":
            raise UserError(f"{path}: written on a big-endian machine, which is not supported")

        def reader(storage: _Storage) -> Callable[[], np.ndarray]:
            info = entries.get(f"{root}data/{storage.key}")
            if info is None or info.file_size < _nbytes(storage):
                raise UserError(
                    f"{path}: incomplete: the bytes of storage {storage.key} are missing"
                )
            if info.file_size > _nbytes(storage):
                raise UserError(
                    f"{path}: damaged: storage {storage.key} has {info.file_size} bytes, its "
                    f"tensors need {_nbytes(storage)}; copy the file anew"
                )
            # The local header repeats name and extra field, the latter with another length.
            archive.fp.seek(info.header_offset)
            name_length, extra_length = struct.unpack("<26xHH", archive.fp.read(30))
            start = info.header_offset + 30 + name_length + extra_length
            if start + info.file_size > size:
                raise UserError(f"{path}: cut short: storage {storage.key} ends beyond the file")
            return _map(path, start, info.file_size, info.CRC)

        with archive.open(pickles[0]) as file:
            return _Unpickler(_Memory(file.read()), str(path), reader).load()


class _Memory:
    """Bytes with the methods of a file that an unpickler calls: the archive itself has to seek."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def read(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def readline(self) -> bytes:
        end = self._data.find(b"\n", self._at) + 1 or len(self._data)
        start, self._at = self._at, end
        return self._data[start:end]


def _read_legacy(path: pathlib.Path) -> object:
    """Reads the pickles in their order: magic number, protocol, system, tree, storage keys.

    The storages follow, each after its count of elements.
    """
    ranges: dict[str, tuple[int, int]] = {}
    used: list[_Storage] = []

    def reader(storage: _Storage) -> Callable[[], np.ndarray]:
        used.append(storage)
        return lambda: _map(path, *ranges[storage.key])()

    size = path.stat().st_size
    with path.open("rb") as file:

        def unpickle() -> object:
            return _Unpickler(file, str(path), reader).load()

        if unpickle() != _LEGACY_MAGIC or unpickle() != _LEGACY_PROTOCOL:
            raise UserError(f"{path}: not a file written by torch.save")
        if not unpickle().get("little_endian", True):
            raise UserError(f"{path}: written on a big-endian machine, which is not supported")
        tree = unpickle()
        counts = {storage.key: storage for storage in used}
        for key in unpickle():
            file.seek(8, os.SEEK_CUR)  # the count of elements, which the pickle holds too
            if key not in counts:
                raise UserError(
                    f"{path}: storage {key} is used by no tensor; save it anew with torch"
                )
            ranges[key] = (file.tell(), _nbytes(counts[key]))
            file.seek(_nbytes(counts[key]), os.SEEK_CUR)
            if file.tell() > size:
                raise UserError(f"{path}: cut short at byte {size}")
        if file.tell() < size:
            left = size - file.tell()
            raise UserError(
                f"{path}: damaged: {left} bytes follow the last tensor; copy the file anew"
            )
    if counts.keys() - ranges.keys():
        raise UserError(f"{path}: incomplete: the bytes of some storages are missing")
    return tree


def _flatten(tree: object, limit: int) -> dict[str, LazyTensor]:
    """The tensors of nested dicts by dotted name; other values (epoch, arguments) are left out.

    ``limit``: entries that may be looked at. A pickle has more bytes than entries, unless dicts
    that hold one another make many of few.
    """
    found: dict[str, LazyTensor] = {}
    left: list[tuple[str, int, object]] = [("", 0, tree)]
    visited = 0
    while left:
        name, depth, value = left.pop()
        visited += 1
        if visited > limit or depth > _MAX_DEPTH or len(name) > _MAX_NAME:
            raise ValueError("dicts nest too deep, or in one another, or names are too long")
        if isinstance(value, LazyTensor):
            found[name] = value
        elif isinstance(value, dict):
            prefix = f"{name}." if name else ""
            left += [(f"{prefix}{key}", depth + 1, value[key]) for key in reversed(value)]
    return found


def read(path: str | os.PathLike) -> dict[str, LazyTensor]:
    """Returns the tensors of a torch.save file by dotted name; loads none.

    A file that holds one tensor and no dict gives it the name ``""``. Raises UserError when the
    file is missing, cut short, not written by torch.save, or names anything but plain containers
    and tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        tree = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        tensors = _flatten(tree, path.stat().st_size)
    except UserError:
        raise
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, AttributeError, IndexError, KeyError,
        TypeError, ValueError, struct.error, UnicodeDecodeError, OverflowError, MemoryError,
        NotImplementedError, RuntimeError, AssertionError,
    ):  # fmt: skip
        # On bytes that are not a pickle the unpickler raises any of these.
        raise UserError(f"{path}: not a file written by torch.save, or damaged") from None
    except OSError as error:  # also of offsets below zero
        raise UserError(f"{path}: cannot be read ({error.strerror}), or damaged") from error
    if not tensors:
        raise UserError(f"{path}: holds no tensors")
    return tensors
