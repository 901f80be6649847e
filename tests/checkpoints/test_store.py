"""The store: round trips in every dtype, other topologies, and a clear line for each misuse."""

import json
import pathlib
import resource
import shutil
import signal

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from skipsr_jax.checkpoints import store, streaming
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten

CONFIG = {"tau": 2e-4, "vae": {"block_channels": [1, 2]}}


def model() -> dict:
    rng = np.random.default_rng(0)

    def numbers(*shape, dtype=np.float32):
        return rng.normal(size=shape).astype(dtype)

    return {
        "dit": {
            "mm_blocks": {
                "vid": {"qkv": {"kernel": numbers(2, 8, 24, dtype=ml_dtypes.bfloat16)}},
                "rope_freqs": numbers(2, 5),
            },
            "eight_bit": numbers(4, 4, dtype=ml_dtypes.float8_e4m3fn),
        },
        "vae": {"resnets": {"0": {"kernel": numbers(3, 3, 3, 2, 8)}, "10": {"bias": numbers(8)}}},
        "text": {"positive": numbers(5, 7, dtype=np.float16)},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("store") / "model"
    store.save_model(path, model(), CONFIG, step=7)
    return path


def same(tree: dict, expected: dict) -> None:
    got, want = flatten(tree), flatten(expected)
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == want[key].dtype, key
        assert np.asarray(got[key]).tobytes() == want[key].tobytes(), key


def test_what_is_saved_comes_back(saved, caplog):
    same(store.restore_host(saved), model())
    restored = store.restore_params(saved)
    same(restored, model())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    config = store.load_config(saved)
    assert config.pop("checksums").keys() == {f"params/{path}" for path in flatten(model())}
    assert config == CONFIG | {"format_version": 1}
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_model_folder_step_folder_and_workdir_are_all_accepted(saved, tmp_path, monkeypatch):
    (tmp_path / "workdir").mkdir()
    shutil.copytree(saved, tmp_path / "workdir" / "checkpoints")
    monkeypatch.chdir(tmp_path)
    for path in (saved, saved / "7", "workdir", "workdir/checkpoints", str(saved)):
        same(store.restore_host(path, ("text",)), {"text": model()["text"]})
        assert store.load_config(path)["tau"] == 2e-4
    with pytest.raises(UserError, match="no step 3; it has 7"):
        store.load_config(saved, step=3)


def test_parts_and_single_arrays(saved):
    same(store.restore_params(saved, only=("vae",)), {"vae": model()["vae"]})
    one = store.restore_host(saved, paths=["vae/resnets/10/bias"])
    same(one, {"vae": {"resnets": {"10": {"bias": model()["vae"]["resnets"]["10"]["bias"]}}}})
    with pytest.raises(UserError, match="has no predictor; it has dit, text, vae"):
        store.restore_params(saved, only=("predictor",))
    with pytest.raises(UserError, match="has no 'ema'; it has params"):
        store.restore_params(saved, branch="ema")


def test_restores_onto_a_mesh_and_casts_all_but_the_frequencies(saved):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), model()["dit"])
    shardings["mm_blocks"]["vid"]["qkv"]["kernel"] = sharding
    dit = store.restore_params(
        saved, shardings={"dit": shardings}, dtype=np.float32, only=("dit",)
    )["dit"]
    kernel = dit["mm_blocks"]["vid"]["qkv"]["kernel"]
    assert kernel.sharding == sharding and kernel.dtype == np.float32
    want = model()["dit"]["mm_blocks"]["vid"]["qkv"]["kernel"].astype(np.float32)
    np.testing.assert_array_equal(np.asarray(kernel), want)
    half = store.restore_params(saved, dtype=ml_dtypes.bfloat16, only=("dit",))["dit"]
    assert half["mm_blocks"]["rope_freqs"].dtype == np.float32
    assert half["eight_bit"].dtype == ml_dtypes.bfloat16


def test_large_arrays_are_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_SMALL_BYTES", 0)
    monkeypatch.setattr(store, "CHUNK_BYTES", 64)
    # A step of Orbax that ours replaces: if it is gone, arrays are no longer streamed.
    assert "_open_and_write" in vars(ocp.type_handlers.NumpyHandler)
    odd = np.arange(7 * 5 * 6, dtype=np.float32).reshape(7, 5, 6)
    expected = {"dit": {"odd": odd, "scalar": np.array(3.0, np.float32)}}
    store.save_model(tmp_path / "m", expected, {})
    same(store.restore_host(tmp_path / "m"), expected)


def test_what_was_sharded_restores_on_one_device(tmp_path):
    mesh = jax.make_mesh((8,), ("fsdp",))
    numbers = np.arange(64, dtype=np.float32).reshape(8, 8)
    spread = jax.device_put(numbers, NamedSharding(mesh, PartitionSpec("fsdp")))
    store.save_model(tmp_path / "m", {"dit": {"w": spread}}, {})
    back = store.restore_params(tmp_path / "m")["dit"]["w"]
    assert len(back.devices()) == 1
    np.testing.assert_array_equal(np.asarray(back), numbers)


def test_another_model_is_named(saved):
    fits = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), model())
    same(store.restore_params(saved, fits), model())
    same(store.restore_params(saved, {"vae": fits["vae"]}), {"vae": model()["vae"]})
    other = jax.tree.map(lambda x: x, fits)
    other["vae"]["resnets"]["10"]["bias"] = jax.ShapeDtypeStruct((9,), np.float32)
    other["vae"]["new"] = other["vae"]["resnets"].pop("0")
    with pytest.raises(UserError) as raised:
        store.restore_params(saved, other)
    for part in (
        "missing vae/new/kernel",
        "unexpected vae/resnets/0",
        "bias has shape (8,), expected (9,)",
    ):
        assert part in str(raised.value)


def test_nothing_is_overwritten(saved, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        store.save_model(saved, model(), CONFIG)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        store.save_model(tmp_path / "file", model(), CONFIG)
    (tmp_path / "empty").mkdir()
    store.save_model(tmp_path / "empty", {"text": model()["text"]}, CONFIG)
    assert store.load_config(tmp_path / "empty")


def test_keys_that_would_not_come_back_are_refused(tmp_path):
    with pytest.raises(ValueError, match="non-empty strings"):
        store.save_model(tmp_path / "a", {"vae": {0: np.zeros(1)}}, {})
    with pytest.raises(ValueError, match="float, not an array"):
        store.save_model(tmp_path / "a", {"vae": {"x": 1.0}}, {})
    assert list(tmp_path.iterdir()) == []


def test_bad_paths_are_named(saved, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        store.load_config(tmp_path / "absent")
    (tmp_path / "file.pth").write_text("x")
    with pytest.raises(UserError, match=r"file.pth: a file; a checkpoint is a folder"):
        store.restore_params(tmp_path / "file.pth")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    with pytest.raises(UserError, match="not a checkpoint"):
        store.restore_params(tmp_path / "folder")
    (tmp_path / "stopped" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(UserError, match="only a half-written checkpoint"):
        store.restore_params(tmp_path / "stopped")


@pytest.mark.parametrize(
    "lost", ["_CHECKPOINT_METADATA", "state/_METADATA", "config/metadata", "state/manifest.ocdbt"]
)
def test_half_copied_checkpoints_are_refused(saved, tmp_path, lost):
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "7" / lost).unlink()
    with pytest.raises(UserError, match="half-"):
        store.restore_params(tmp_path / "copy")
    (tmp_path / "copy" / "8").mkdir()
    with pytest.raises(UserError, match="8: half-written"):
        store.restore_params(tmp_path / "copy")


def test_lost_numbers_are_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    for file in (tmp_path / "copy" / "7" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read"):
        store.restore_host(tmp_path / "copy")


def test_a_later_format_is_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    file = tmp_path / "copy" / "7" / "config" / "metadata"
    file.write_text(json.dumps(CONFIG | {"format_version": 99}))
    with pytest.raises(UserError, match="format_version 99; this code reads 1"):
        store.load_config(tmp_path / "copy")


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    """Whether that shows before, or while the arrays are written."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(UserError, match=r"the checkpoint takes up to .* has 0\.00 MiB free"):
        store.save_model(tmp_path / "m", model(), CONFIG)
    monkeypatch.undo()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(store, "require_space", lambda *_: None)
    large = {"dit": {"w": np.random.default_rng(0).integers(0, 255, 1 << 20, np.uint8)}}
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limit[1]))
    try:
        with pytest.raises(UserError, match=r"^cannot write .*/m: File too large$"):
            store.save_model(tmp_path / "m", large, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []
