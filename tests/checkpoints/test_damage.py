"""Whatever happens to the files of a checkpoint, reading gives the numbers or one line."""

import logging
import pathlib
import random
import shutil
import sys
import types

import numpy as np
import pytest
from etils import epath

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.damage import (
    DamagedCheckpointError,
    damage_as_one_line,
    quiet_after_failure,
)
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten

MUTATIONS = 300


def numbers() -> dict:
    rng = np.random.default_rng(0)
    return {
        "dit": {"kernel": rng.normal(size=(3, 40, 30)).astype(np.float32)},
        "vae": {"smooth": np.repeat(np.float16([1, 2, 3]), 400), "one": np.ones((), np.float32)},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("damage") / "model"
    store.save_model(path, numbers(), {"tau": 1e-4})
    return path


def outcome(path: pathlib.Path) -> str:
    """ "intact", or the one line that reading ends in; anything else fails the test."""
    try:
        found = flatten(store.restore_host(path))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return str(error)
    expected = flatten(numbers())
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name
    return "intact"


@pytest.mark.parametrize(
    "error",
    [Exception("a\nb"), RecursionError("deep"), MemoryError(), TimeoutError(), KeyError(1)],
)
def test_whatever_a_damaged_file_raises_is_one_line(error):
    with pytest.raises(DamagedCheckpointError) as raised, damage_as_one_line(epath.Path("/m/0")):
        raise error
    assert str(raised.value).startswith("/m/0: cannot be read") and "\n" not in str(raised.value)


def test_errors_that_say_something_else_pass():
    with pytest.raises(UserError, match=r"^mine$"), damage_as_one_line(epath.Path("/m/0")):
        raise UserError("mine")
    with pytest.raises(UserError, match="denied") as raised, damage_as_one_line(epath.Path("/m")):
        raise PermissionError("denied")
    assert not isinstance(raised.value, DamagedCheckpointError)
    with pytest.raises(KeyboardInterrupt), damage_as_one_line(epath.Path("/m")):
        raise KeyboardInterrupt


def test_what_fails_after_the_first_failure_is_silent_and_other_things_are_not(monkeypatch, caplog):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    closed, other = (
        types.SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "mine")
    )
    with quiet_after_failure():
        pass
    assert sys.unraisablehook == reported.append
    with pytest.raises(KeyError), quiet_after_failure():
        raise KeyError
    sys.unraisablehook(closed)
    sys.unraisablehook(other)
    assert reported == [other]
    for name in ("asyncio", "absl"):
        logger = logging.getLogger(name)
        logger.error("Future exception was never retrieved\nfuture: ...")
        logger.error("_SignalingThread.run() raised an exception: ...")
        logger.error("news")
        for added in logger.filters[:]:
            logger.removeFilter(added)
    assert [record.getMessage() for record in caplog.records] == ["news", "news"]


def data_files(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("change", ["removed", "emptied", "cut", "folder"])
def test_each_file_in_turn(saved, tmp_path, change):
    lines = []
    for number, file in enumerate(data_files(saved)):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        damaged = copy / file.relative_to(saved)
        content = damaged.read_bytes()
        damaged.unlink()
        if change == "folder":
            damaged.mkdir()
        elif change != "removed":
            damaged.write_bytes(content[: len(content) // 2 if change == "cut" else 0])
        lines.append(outcome(copy))
    assert sum(line != "intact" for line in lines) >= 4, lines  # markers that are not read may go


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with some bits flipped, a part removed, repeated, zeroed, or replaced."""
    start, length = rng.randrange(len(content) + 1), rng.choice([1, 1, 2, 16, 400])
    end = start + length
    before, part, after = content[:start], content[start:end], content[end:]
    match rng.randrange(5):
        case 0:
            flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in part)
            return before + flipped + after
        case 1:
            return before + after
        case 2:
            return before + part * rng.choice([2, 3, 1000]) + after
        case 3:
            return before + bytes(len(part)) + after
    return before + rng.randbytes(length) + after


def mutations_of(saved, tmp_path, names) -> list[str]:
    """The outcomes of mutating files whose paths hold one of ``names``."""
    rng, lines = random.Random(0), []
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    files = [file for file in data_files(copy) if any(name in str(file) for name in names)]
    for _ in range(MUTATIONS):
        file = rng.choice(files)
        content = file.read_bytes()
        file.write_bytes(mutated(content, rng))
        lines.append(outcome(copy))
        file.write_bytes(content)
    assert outcome(copy) == "intact"
    return lines


@pytest.mark.slow
def test_mutated_arrays_give_no_other_numbers(saved, tmp_path):
    lines = mutations_of(saved, tmp_path, ["/d/"])
    assert sum(line != "intact" for line in lines) > MUTATIONS // 3


@pytest.mark.slow
def test_mutated_metadata_gives_no_other_numbers(saved, tmp_path):
    lines = mutations_of(saved, tmp_path, ["_METADATA", "manifest", "config/metadata"])
    assert sum(line != "intact" for line in lines) > MUTATIONS // 3
