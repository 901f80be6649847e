"""The config of a checkpoint is what was saved, or one line says what is wrong with it."""

import json
import math

import pytest
from etils import epath

from skipsr_jax.checkpoints import config_item
from skipsr_jax.checkpoints.damage import DamagedCheckpointError
from skipsr_jax.errors import UserError


@pytest.fixture
def step(tmp_path):
    """A step's folder with a config."""
    (tmp_path / "config").mkdir()
    write(tmp_path, config_item.facts({"tau": 1e-4, "vae": {"sizes": (1, 2)}}, {"a": "00"}))
    return epath.Path(tmp_path)


def write(step, config):
    (step / "config" / "metadata").write_text(json.dumps(config))


def text_of(step):
    return (step / "config" / "metadata").read_text()


def test_what_was_saved_is_read_without_its_digest(step):
    assert config_item.read(step) == {
        "tau": 1e-4, "vae": {"sizes": [1, 2]}, "format_version": 1, "checksums": {"a": "00"}
    }  # fmt: skip


def test_a_config_that_was_changed_is_refused_unless_its_digest_is_removed(step):
    config = json.loads(text_of(step).replace("0.0001", "0.0003"))
    write(step, config)
    with pytest.raises(DamagedCheckpointError, match=r"not the one that was saved .*config_sha256"):
        config_item.read(step)
    config.pop("config_sha256")
    write(step, config)
    assert config_item.read(step)["tau"] == 3e-4


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "1", '{"format_version": 2}'])
def test_other_files_are_one_line(step, text):
    (step / "config" / "metadata").write_text(text)
    with pytest.raises(UserError) as raised:
        config_item.read(step)
    assert "\n" not in str(raised.value)


def test_a_deeply_nested_config_is_one_line(step):
    text = '{"vae": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (step / "config" / "metadata").write_text(text)
    with pytest.raises(DamagedCheckpointError, match="recursion"):
        config_item.read(step)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vae", []), ("dit", 1), ("checksums", ["a"]), ("exported", "x"), ("tau", None),
     ("tau", True), ("tau", math.nan), ("tau", -1), ("tau", 10**400), ("precision", {}),
     ("mixed_dtypes", []), ("mixed_dtypes", {"dit": 1}), ("exported", {"dit": "x"})],
)  # fmt: skip
def test_entries_of_wrong_types_are_named(step, name, value):
    config = json.loads(text_of(step)) | {name: value}
    config.pop("config_sha256")
    write(step, config)
    with pytest.raises(DamagedCheckpointError, match=f"in its config, {name}.* is "):
        config_item.read(step)
