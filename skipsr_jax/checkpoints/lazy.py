"""LazyTensor: a tensor in a file whose dtype and shape are known and whose numbers are read later.

Every reader returns ``dict[str, LazyTensor]`` and every writer takes one, so that a checkpoint of
any size passes through memory one tensor at a time. Invariant: ``load()`` gives an array of
exactly the declared dtype and shape, and keeps nothing open or cached once that array is dropped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from skipsr_jax.errors import UserError

# Bytes written at once: enough for the full speed of a disk, few beside the tensors in memory.
_PIECE_BYTES = 1 << 24

# Wrappers that training frameworks put around every key of a state dict.
_WRAPPERS = ("state_dict", "module", "model", "_orig_mod")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that has not been read yet; ``load`` reads it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """The number of scalars."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.size * self.dtype.itemsize


def of_array(array: np.ndarray) -> LazyTensor:
    """A LazyTensor of an array that is in memory."""
    return LazyTensor(array.dtype, array.shape, lambda: array)


def dtype_named(name: str) -> np.dtype:
    """``np.dtype`` that knows bfloat16 and the float8 types as well."""
    return np.dtype(getattr(ml_dtypes, name, name))


def refusing_non_finite(tensors: dict[str, LazyTensor], source: str) -> dict[str, LazyTensor]:
    """The tensors of a file, each of which raises UserError where it loads a NaN or an infinity.

    ``source``: the file, for the message.
    """

    def of(name: str, tensor: LazyTensor) -> LazyTensor:
        def load() -> np.ndarray:
            array = tensor.load()
            if not is_finite(array):
                raise UserError(
                    f"{source}: {name} holds numbers that are not finite (NaN or infinity): the "
                    "file is damaged, or its training diverged; copy it anew, or take another"
                )
            return array

        return LazyTensor(tensor.dtype, tensor.shape, load)

    return {name: of(name, tensor) for name, tensor in tensors.items()}


def is_finite(array: np.ndarray) -> bool:
    """Whether an array of any dtype holds neither NaN nor infinity; looks at 16 MiB at a time."""
    if array.dtype.kind in "iub":
        return True
    flat = np.ascontiguousarray(array).reshape(-1)
    step = _PIECE_BYTES // flat.itemsize
    return all(_piece_is_finite(flat[i : i + step]) for i in range(0, flat.size, step))


def _piece_is_finite(piece: np.ndarray) -> bool:
    match piece.itemsize:
        case 1:  # eight codes at most are not finite
            codes = np.arange(256, dtype=np.uint8)
            wrong = codes[~np.isfinite(codes.view(piece.dtype))]
            return not any((piece.view(np.uint8) == code).any() for code in wrong)
        case 2:  # numpy has no vector instructions for isfinite here; all exponent bits say it
            exponent = np.array(np.inf, piece.dtype).view(np.uint16)
            return bool((piece.view(np.uint16) & exponent).max() < exponent)
    return bool(np.isfinite(piece).all())


def pieces(tensor: LazyTensor) -> Iterator[bytes]:
    """The tensor's bytes in C order, little-endian, in pieces of 16 MiB.

    Raises ValueError when the loaded array has not the declared dtype and shape.
    """
    array = tensor.load()
    if array.dtype != tensor.dtype or array.shape != tensor.shape:
        raise ValueError(
            f"a tensor declared as {tensor.dtype}{list(tensor.shape)} loaded as "
            f"{array.dtype}{list(array.shape)}"
        )
    # reshape copies only what is not contiguous; the view as bytes works for every dtype.
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, raw.size, _PIECE_BYTES):
        yield raw[start : start + _PIECE_BYTES].tobytes()


def strip_wrappers(
    tensors: dict[str, LazyTensor], source: str, section: str | None = None
) -> dict[str, LazyTensor]:
    """The state dict inside ``tensors``, its keys free of the wrappers around all of them.

    First ``section`` (a first name such as ``ema``), if there is one, is selected. Then, while
    every key starts with one of ``state_dict.``, ``module.``, ``model.``, ``_orig_mod.``, that
    first name is removed. It is removed from all keys or from none, so no two keys become equal.

    Raises UserError when ``section`` is not there, or when some keys have a wrapper and others are
    in other sections, so that the user must choose.
    """
    if section is not None:
        inside = {
            k[len(section) + 1 :]: t for k, t in tensors.items() if k.startswith(section + ".")
        }
        if not inside:
            known = ", ".join(sorted({key.split(".")[0] for key in tensors})[:8])
            raise UserError(f"{source}: no section {section!r}; there are: {known}")
        tensors = inside
    while tensors:
        first = {key.split(".", 1)[0] for key in tensors}
        wrapped = first & set(_WRAPPERS)
        if not wrapped:
            return tensors
        if len(first) > 1:
            raise UserError(
                f"{source}: holds several sections ({', '.join(sorted(first)[:8])}); choose one "
                f"with --section, for example --section={min(wrapped)}"
            )
        if any("." not in key for key in tensors):
            return tensors
        tensors = {key.split(".", 1)[1]: tensor for key, tensor in tensors.items()}
    return tensors
