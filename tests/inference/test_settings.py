"""The config becomes checked dataclasses, and every mistake is one clear line."""

import ml_collections
import pytest
from absl import flags

from skipsr_jax import commandline
from skipsr_jax.config import defaults, flattened
from skipsr_jax.errors import UserError
from skipsr_jax.inference import settings

CONFIGS = ("tiny", "seedvr2_3b", "seedvr2_7b", "seedvr_3b", "seedvr_7b")


def parse(*arguments: str):
    values = flags.FlagValues()
    flags.DEFINE_string("input", None, "x", flag_values=values)
    argv = ["infer.py", *arguments]
    return commandline.parse(argv, "tiny", values, complete=settings.complete)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_in_range(name):
    _, config = parse(f"--config={name}")
    assert settings.from_config(config).checkpoint == f"checkpoints/{name}"


def test_overrides_arrive():
    values, config = parse("--input=a.mp4", "--config.size.factor=2", "--config.mask.dilate", "3")
    made = settings.from_config(config)
    assert values.input == "a.mp4"
    assert made.size.factor == 2.0
    assert made.mask.dilate == 3


def test_sparse_decoding_shows_the_input_in_skipped_patches():
    _, config = parse("--config.decode=sparse", "--noconfig.pixels.keep_skipped")
    with pytest.raises(
        UserError, match=r"config\.decode.*dense or auto without pixels\.keep_skipped"
    ):
        settings.from_config(config)
    _, config = parse("--config.encode=sparce")
    with pytest.raises(UserError, match=r"config\.encode.*one of auto, dense, sparse"):
        settings.from_config(config)


def test_bool_entries_have_a_no_form():
    _, config = parse("--noconfig.pixels.keep_skipped")
    assert not settings.from_config(config).pixels.keep_skipped


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.sampler.step=4", "did you mean sampler.steps"),
        ("--config.steps=4", "did you mean sampler.steps"),
        ("--config.bogus=4", "no key 'bogus'"),
        ("--config.sampler.steps=many", "many"),
        ("--config.sampler.steps=1.5", "1.5"),
        ("--config.size.factor=big", "big"),
        ("--config.sampler=4", "sampler.steps"),
        ("--inptu=4", "inptu"),
        ("--config=nowhere.py", "nowhere.py"),
        ("--config", "--config needs a name or a file"),
        ("clip.mp4", "--input=clip.mp4"),
    ],
)
def test_mistakes_on_the_command_line(argument, says):
    with pytest.raises(UserError) as caught:
        parse(argument)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.mask.source=guess", "auto, predictor, input, oracle, none"),
        ("--config.mask.source=oracle", "mask.reference"),
        ("--config.mask.probability=1.5", "from 0 to 1"),
        ("--config.chunk.frames=16", "4k + 1"),
        ("--config.chunk.overlap=100", "half of chunk.frames"),
        ("--config.size.factor=0", "size.factor"),
        ("--config.size.height=3", "size.height"),
        ("--config.sampler.steps=0", "sampler.steps"),
        ("--config.dtype=float8", "auto, float32, bfloat16"),
        ("--config.pixels.colour=lab", "wavelet, adain, none"),
        ("--config.seed=-1", "seed"),
    ],
)
def test_values_out_of_range(argument, says):
    _, config = parse(argument)
    with pytest.raises(UserError, match=says.replace("+", r"\+")):
        settings.from_config(config)


def test_a_config_with_other_keys_is_refused():
    _, config = parse()
    plain = config.to_dict()
    plain["mask"]["sorce"] = "none"
    with pytest.raises(UserError, match=r"unknown config\.mask\.sorce.*mean config\.mask\.source"):
        settings.from_config(ml_collections.ConfigDict(plain))


def test_a_file_holds_what_differs_from_the_defaults(tmp_path):
    short, full = tmp_path / "short.py", tmp_path / "full.py"
    start = "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict("
    short.write_text(start + "{'checkpoint': 'here', 'chunk': {'frames': 33}})")
    _, config = parse(f"--config={short}", "--config.mask.dilate=3", "--config.chunk.overlap=2")
    made = settings.from_config(config)
    assert made == settings.Settings(
        "here", chunk=settings.Chunk(33, 2), mask=settings.Mask(dilate=3)
    )
    full.write_text(start + f"{config.to_dict()!r})")  # as files had to be before
    assert settings.from_config(parse(f"--config={full}")[1]) == made
    short.write_text(start + "{'checkpont': 'here'})")
    with pytest.raises(UserError, match=r"unknown config\.checkpont, did you mean"):
        settings.from_config(parse(f"--config={short}")[1])


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    for key in flattened(defaults(settings.Settings)):
        assert f"--config.{key}=" in shown
    assert "--config.sampler.guidance=1.0\n" in shown


def test_a_broken_config_file_is_one_line(tmp_path):
    for text, says in [("x = (", "not Python"), ("x = 1", "no get_config")]:
        path = tmp_path / "c.py"
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            parse(f"--config={path}")


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_sparse_coding_without_a_mask_is_refused(direction):
    with pytest.raises(UserError, match=f"{direction} is 'sparse'.*mask.source=none"):
        settings.Settings(
            checkpoint="x", mask=settings.Mask(source="none"), **{direction: "sparse"}
        )
