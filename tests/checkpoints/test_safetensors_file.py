"""safetensors files: against the safetensors package itself, float8, damage."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from skipsr_jax.checkpoints import lazy, safetensors_file
from skipsr_jax.errors import UserError

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def raw_file(path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_reads_what_the_package_writes(tmp_path):
    arrays = {
        "a": NUMBERS,
        "b.c": np.array([1.5, -2], lazy.dtype_named("bfloat16")),
        "d": np.array(7, np.int64),
        "e": np.zeros((0, 3), np.float16),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", {"format": "pt"})
    read = safetensors_file.read(tmp_path / "x.safetensors")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        assert read[name].load().tobytes() == array.tobytes()


def test_the_package_reads_what_is_written(tmp_path):
    arrays = {"a": NUMBERS, "t": NUMBERS.T, "h": NUMBERS.astype(lazy.dtype_named("bfloat16"))}
    path = tmp_path / "y.safetensors"
    safetensors_file.write(path, {name: lazy.of_array(array) for name, array in arrays.items()})
    for name, array in safetensors.numpy.load_file(path).items():
        np.testing.assert_array_equal(array, arrays[name])
    assert list(safetensors_file.read(path)) == list(arrays)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bool", "float64"])
def test_other_dtypes_round_trip(tmp_path, name):
    array = NUMBERS.astype(lazy.dtype_named(name))
    safetensors_file.write(tmp_path / "z.safetensors", {"x": lazy.of_array(array)})
    loaded = safetensors_file.read(tmp_path / "z.safetensors")["x"].load()
    assert loaded.dtype == array.dtype and loaded.tobytes() == array.tobytes()


def test_golden_weights(golden):
    found = sorted(golden.glob("*/weights.safetensors"))
    assert found
    for path in found:
        read, package = safetensors_file.read(path), safetensors.numpy.load_file(path)
        assert read.keys() == package.keys()
        assert all(np.array_equal(read[name].load(), package[name]) for name in package)


def test_damage_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    raw_file(path, {"w": entry}, NUMBERS.tobytes()[:-1])
    with pytest.raises(UserError, match="cut short: w ends"):
        safetensors_file.read(path)
    raw_file(path, {"w": entry}, NUMBERS.tobytes() + b"junk!")
    with pytest.raises(UserError, match="damaged: 5 bytes follow the last tensor"):
        safetensors_file.read(path)
    raw_file(path, {"w": entry | {"shape": [3, 3]}}, NUMBERS.tobytes())
    with pytest.raises(UserError, match="w has 24 bytes, its shape needs 36"):
        safetensors_file.read(path)
    raw_file(path, {"w": entry | {"dtype": "F4"}}, NUMBERS.tobytes())
    with pytest.raises(UserError, match="dtype F4"):
        safetensors_file.read(path)
    raw_file(path, {"w": {"dtype": "F32"}}, b"")
    with pytest.raises(UserError, match="entry for w is not valid"):
        safetensors_file.read(path)
    for data in (b"", b"abc", b"a text file, nothing else"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a safetensors file"):
            safetensors_file.read(path)
    path.write_bytes(struct.pack("<Q", 4) + b"oops")
    with pytest.raises(UserError, match="not JSON"):
        safetensors_file.read(path)
    with pytest.raises(UserError, match="no such file"):
        safetensors_file.read(tmp_path / "absent.safetensors")


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": ENTRY | {"dtype": []}}, r"dtype \[\]"),
        ({"w": ENTRY | {"shape": [2**70]}}, f"its shape needs {2**72}"),
        ({"w": ENTRY | {"shape": [2.0, 3]}}, "not valid"),
        ({"w": ENTRY | {"shape": [True, 6]}}, "not valid"),
        ({"w": ENTRY | {"shape": [-2, -3]}}, "not valid"),
        ({"w": ENTRY | {"shape": "23"}}, "not valid"),
        ({"w": ENTRY | {"data_offsets": [-24, 0]}}, "not valid"),
        ({"w": ENTRY | {"data_offsets": [0, 24, 48]}}, "not valid"),
        ({"w": [ENTRY]}, "not valid"),
        ({"w": ENTRY, "v": ENTRY | {"shape": [5], "data_offsets": [4, 24]}}, "w and v overlap"),
    ],
)
def test_headers_that_make_no_sense_are_refused(tmp_path, header, message):
    raw_file(tmp_path / "x.safetensors", header, NUMBERS.tobytes())
    with pytest.raises(UserError, match=message):
        safetensors_file.read(tmp_path / "x.safetensors")


def test_a_header_of_brackets_is_refused(tmp_path):
    text = b"[" * 40_000
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match="not JSON"):
        safetensors_file.read(tmp_path / "x.safetensors")


def test_an_existing_file_is_never_overwritten(tmp_path):
    (tmp_path / "mine.safetensors").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        safetensors_file.write(tmp_path / "mine.safetensors", {"x": lazy.of_array(NUMBERS)})


FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_that_are_not_finite_are_found_in_every_dtype(name):
    dtype = lazy.dtype_named(name)
    array = np.random.default_rng(0).normal(scale=50, size=(40, 30)).astype(dtype)
    array[0, 0] = np.array(ml_dtypes.finfo(dtype).max, dtype)
    assert lazy.is_finite(array) and lazy.is_finite(array.T) and lazy.is_finite(array[:0])
    for value in (np.nan, np.inf, -np.inf):
        array[7, 29] = value
        assert not lazy.is_finite(array) and not lazy.is_finite(array[7:].T)
    assert lazy.is_finite(array[:7])


def test_integers_are_finite():
    assert lazy.is_finite(np.array([2**31 - 1, -1], np.int32))
    assert lazy.is_finite(np.array([True, False]))
