"""--config takes a name or a file; what is wrong with either is said in one line."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags

from skipsr_jax import commandline
from skipsr_jax.config import flattened
from skipsr_jax.errors import UserError
from skipsr_jax.inference import settings as inference
from skipsr_jax.resources import config_names
from skipsr_jax.training import settings as training
from skipsr_jax.training.stages.registry import LOSS_KINDS

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(*argv):
    return commandline.parse(["program", *argv], "tiny", flags.FlagValues())[1]


def test_a_config_by_name_from_any_directory():
    assert parse().checkpoint == "checkpoints/tiny"
    assert parse("--config=seedvr2_3b").checkpoint == "checkpoints/seedvr2_3b"
    assert parse("--config", "tiny_sr").stage == "sr"


def test_a_config_that_builds_on_another_by_name():
    config = parse("--config=seedvr_7b_sr", "--config.loop.steps=3")
    assert (config.model, config.loop.steps) == ("seedvr_7b", 3)


def test_a_config_by_path():
    pathlib.Path("mine.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'answer': 42})\n"
    )
    assert parse("--config=mine.py").answer == 42
    assert parse(f"--config={pathlib.Path.cwd()}/mine.py", "--config.answer=3").answer == 3


def test_help_says_which_config_has_the_entries(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--config=seedvr2_7b", "--help")
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert (
        "entries of seedvr2_7b:" in said and "--config.checkpoint='checkpoints/seedvr2_7b'" in said
    )


@pytest.mark.parametrize("name", config_names())
def test_every_key_of_every_config_is_explained(name):
    """In words, and with the values that it takes where these are not any."""
    config = commandline.read_config(name)
    if "stage" in config:
        config = training.complete(config, LOSS_KINDS)
        texts, size = training.explain(config, LOSS_KINDS), "data.batch"
    else:
        config = inference.complete(config)
        texts, size = inference.explain(config), "size.factor"
    keys = list(flattened(config.to_dict()))
    assert size in keys and sorted(texts) == sorted(keys)
    assert [key for key in keys if len(texts[key].split()) < 3] == []
    assert [key for key in keys if texts[key].startswith(("must", "as in", "see "))] == []
    assert "must be" in texts[size]
    lines = "\n".join(commandline.entry_lines(config, texts))
    assert all(f"  --config.{key}=" in lines for key in keys)


def test_configs_of_a_kind_are_listed_with_what_they_are_for():
    lines = list(commandline.config_lines(lambda config: "stage" not in config))
    assert any(line.split()[0] == "tiny" and len(line.split()) > 3 for line in lines)
    assert not any(line.split()[0] == "tiny_sr" for line in lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def get_config(:", "mine.py is not Python: line 1"),
        ("x = 1", "mine.py has no get_config() function"),
        ("def get_config(): return {}", "mine.py returns dict, not a ConfigDict"),
    ],
)
def test_files_that_are_no_config(text, says):
    pathlib.Path("mine.py").write_text(text)
    with pytest.raises(UserError) as raised:
        parse("--config=mine.py")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.seed=nan", "--config.seed is 'nan': it must be an integer"),
        ("--config.size.height=2**70", "--config.size.height is '2**70': it must be an integer"),
        ("--config.size.factor=big", "--config.size.factor is 'big': it must be a number"),
        (f"--config.seed={'9' * 5000}", "it must be an integer of 64 bits"),
    ],
)
def test_text_that_is_no_number_is_refused_with_the_kind_that_is_wanted(argument, says):
    with pytest.raises(UserError) as caught:
        commandline.parse(["x", argument], "tiny", flags.FlagValues(), "", inference.complete)
    assert says in str(caught.value) and len(str(caught.value)) < 200


def test_help_ends_quietly_where_its_reader_has_enough():
    code = (
        "import os, sys; from absl import flags; from skipsr_jax import commandline\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "commandline.end_with_help('about', flags.FlagValues())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_that_are_no_config():
    with pytest.raises(
        UserError, match=r"did you mean tiny\? .* of seedvr2_3b, [^_]*_7b, "
    ) as raised:
        parse("--config=tinny")
    assert not any(name in str(raised.value) for name in config_names() if name.endswith("_sr"))
    with pytest.raises(UserError, match=r"did you mean tiny_sr\?") as raised:
        commandline.parse(["", "--config=tiny_srr"], "", flags.FlagValues(), trains=True)
    assert "seedvr2_7b" not in str(raised.value) and "seedvr_7b_sr" in str(raised.value)
    with pytest.raises(UserError, match="--config needs a name or a file"):
        parse("--config")
