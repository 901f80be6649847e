"""Checksums of the arrays of a checkpoint, equal however an array is spread over devices.

The checksum of an array is two sums modulo 2^32 over the bits w_i of its elements in C order, taken
as unsigned integers: sum of w_i, and sum of (i + 1) * w_i. Any change of one element changes the
first, and exchanged elements change the second. Sums do not depend on the order of addition, so
each device adds up its shard, in one pass over memory.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.types import HostArray, UInt32

_BLOCK = 1 << 16
"""Elements that the host adds up at a time: they and their indices stay in a core's cache."""
_THREADS = 8


def host_checksum(array: HostArray) -> str:
    """The checksum of an array on the host, as 16 hexadecimal digits."""
    bits = np.ascontiguousarray(array).reshape(-1).view(_unsigned(array.dtype))
    index = np.arange(1, _BLOCK + 1, dtype=np.uint32)
    first = second = 0
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : start + _BLOCK].astype(np.uint32, copy=False)
        total = int(np.add.reduce(block, dtype=np.uint32))
        first += total
        second += int(np.einsum("i,i->", block, index[: block.size])) + start * total
    return _text(first, second)


def host_checksums(flat: Mapping[str, HostArray | Array]) -> dict[str, str]:
    """The checksums of arrays by name, computed by several threads.

    Arrays on devices come to the host for it: for a few, that is faster than the program which
    `device_checksums` compiles.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda array: host_checksum(np.asarray(array)), flat.values())
        return dict(zip(flat, sums, strict=True))


@jax.jit
def _device_sums(arrays: list[Array]) -> list[UInt32[Array, "2"]]:
    return [_sums(array) for array in arrays]


def device_checksums(tree: Any) -> dict[str, str]:
    """The checksums of the arrays of a pytree on devices, by their paths; each host has them all.

    The first call for arrays of certain shapes and shardings compiles a program.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    sums = jax.device_get(_device_sums([jnp.asarray(leaf) for _, leaf in leaves]))
    return {name: _text(*map(int, pair)) for name, pair in zip(names, sums, strict=True)}


def _sums(array: Array) -> UInt32[Array, "2"]:
    bits = jax.lax.bitcast_convert_type(
        array.astype(jnp.uint8) if array.dtype == bool else array, _unsigned(array.dtype)
    ).astype(jnp.uint32)
    index, stride = jnp.ones(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.stack([bits.sum(dtype=jnp.uint32), (bits * index).sum(dtype=jnp.uint32)])


def _unsigned(dtype: np.dtype) -> np.dtype:
    """The unsigned integers that hold the bits of a dtype; two of them for 64 bits."""
    return np.dtype(f"uint{8 * min(np.dtype(dtype).itemsize, 4)}")


def _text(first: int, second: int) -> str:
    return f"{first % 2**32:08x}{second % 2**32:08x}"
