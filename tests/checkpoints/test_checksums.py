"""Checksums find every flipped bit and do not depend on where an array lies."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from skipsr_jax.checkpoints.checksums import device_checksums, host_checksum, host_checksums

DTYPES = (np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, np.bool_, ml_dtypes.float8_e4m3fn)


def drawn(dtype, shape=(6, 5, 4)):
    values = np.random.default_rng(0).normal(size=shape) * 10
    return values.astype(np.int32).astype(dtype) if dtype == np.uint8 else values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_host_and_devices_agree(dtype):
    array = drawn(dtype)
    expected = {"a/b": host_checksum(array)}
    assert device_checksums({"a": {"b": jnp.asarray(array)}}) == expected
    mesh = jax.make_mesh((2,), ("x",))
    spread = jax.device_put(array, NamedSharding(mesh, PartitionSpec("x")))
    assert device_checksums({"a": {"b": spread}}) == expected


def test_a_checksum_is_what_its_definition_says():
    words = np.array([[3, 2**32 - 1], [7, 11]], np.uint32)
    flat = [int(word) for word in words.ravel()]
    sums = sum(flat), sum((i + 1) * word for i, word in enumerate(flat))
    assert host_checksum(words) == "".join(f"{total % 2**32:08x}" for total in sums)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_every_flipped_bit_and_every_exchange_is_found(dtype):
    array = drawn(dtype, (40,))
    intact = host_checksum(array)
    bits = array.view(np.uint8)
    for byte in range(bits.size):
        for bit in range(8):
            damaged = bits.copy()
            damaged[byte] ^= 1 << bit
            assert host_checksum(damaged.view(dtype)) != intact
    exchanged = array.copy()
    exchanged[[3, 30]] = exchanged[[30, 3]]
    assert host_checksum(exchanged) != intact


def test_arrays_of_more_than_a_block_and_of_none():
    large = np.random.default_rng(0).integers(0, 2**32, (3, 700_001), np.uint32)
    assert host_checksums({"large": large, "empty": np.zeros((0, 3), np.float32)}) == (
        device_checksums({"empty": jnp.zeros((0, 3)), "large": jnp.asarray(large)})
    )
