"""Arrays come back as they were saved, in batches, or the one that does not is named."""

import jax
import ml_dtypes
import numpy as np
import pytest

from skipsr_jax.checkpoints import array_reader, store
from skipsr_jax.checkpoints.checksums import host_checksums
from skipsr_jax.checkpoints.damage import DamagedCheckpointError
from skipsr_jax.models.params import flatten

ARRAYS = {
    "a": {"w": np.arange(24, dtype=np.float32).reshape(4, 6)},
    "b": {"v": np.arange(5, dtype=np.float32), "scalar": np.array(2.5, np.float16)},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    store.save_model(tmp_path_factory.mktemp("reader") / "m", {"dit": ARRAYS}, {}, step=3)
    return store.step_folder(tmp_path_factory.getbasetemp() / "reader0" / "m")


def read(folder, checksums):
    wanted = flatten(store.stored_shapes(folder))
    return list(array_reader.read_arrays(folder, "params", wanted, checksums))


def test_batches_hold_all_arrays_in_order(saved, monkeypatch):
    monkeypatch.setattr(array_reader, "_BATCH_BYTES", 30)
    batches = read(saved, store.load_config(saved)["checksums"])
    assert [list(batch) for batch in batches] == [["dit/a/w"], ["dit/b/scalar", "dit/b/v"]]
    for batch in batches:
        for path, array in batch.items():
            np.testing.assert_array_equal(array, flatten({"dit": ARRAYS})[path])


@pytest.mark.parametrize("change", ["other", "absent", "no text"])
def test_a_checksum_that_differs_names_the_array(saved, change):
    checksums = dict(store.load_config(saved)["checksums"])
    match change:
        case "other":
            checksums["params/dit/b/v"] = "0" * 16
        case "absent":
            del checksums["params/dit/b/v"]
        case "no text":
            checksums["params/dit/b/v"] = ["a list"]
    with pytest.raises(DamagedCheckpointError, match="checksum of params/dit/b/v does not match:"):
        read(saved, checksums)


def test_a_checkpoint_without_checksums_is_read_and_said_once(saved, caplog):
    array_reader.say_unverified.cache_clear()
    for _ in range(2):
        (batch,) = read(saved, None)
        assert host_checksums(batch) == host_checksums(flatten({"dit": ARRAYS}))
    assert caplog.text.count("without checksums") == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_casts_are_those_of_numpy(stored, dtype, monkeypatch):
    monkeypatch.setattr(array_reader, "_CAST_ELEMENTS", 16)
    array = (np.random.default_rng(0).normal(size=(3, 5, 7)) * 100).astype(stored)
    expected = array.astype(dtype)
    got = array_reader.cast(array, np.dtype(dtype))
    assert got.dtype == dtype and got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()
    assert array_reader.cast(np.array(1.5, stored), np.dtype(dtype)).shape == ()


def test_what_was_cast_on_reading_was_verified_before(saved):
    """The checksums are of the stored bits."""
    half = store.restore_params(saved, dtype=ml_dtypes.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(ml_dtypes.bfloat16)}
