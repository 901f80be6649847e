"""Flags that stand for entries of the config, and the inputs that they name."""

import pytest
from media_clips import write_clip
from PIL import Image

from skipsr_jax.cli import arguments
from skipsr_jax.cli.batch import Failures
from skipsr_jax.errors import UserError
from skipsr_jax.inference.settings import Settings, Size


def parsed(*argv):
    values = arguments.define_flags()
    values(["infer.py", *map(str, argv)])
    return values


def settings_of(*argv, **entries):
    return arguments.with_flags(Settings(checkpoint="x", **entries), parsed(*argv))


def test_flags_of_the_settings():
    assert settings_of("--scale=2").size.factor == 2
    assert settings_of("-i", "a.mp4", "--max_frames=9", max_frames=3).max_frames == 9
    assert settings_of("-i", "a.mp4").max_frames == 0
    assert settings_of().max_frames == Settings(checkpoint="x").sample_frames
    assert settings_of("--end=99f").max_frames == 0


def test_a_scale_that_contradicts_or_is_out_of_range():
    with pytest.raises(UserError, match=r"--scale, or config.size.height"):
        settings_of("--scale=2", size=Size(height=64))
    with pytest.raises(UserError, match=r"--scale: factor is 99.0: it must be from 0.25 to 16"):
        settings_of("--scale=99")


def test_flags_that_exclude_each_other():
    with pytest.raises(UserError, match=r"give --warmup, .* or --dry_run, .* not both"):
        settings_of("--warmup", "--dry_run")
    with pytest.raises(UserError, match=r"--warmup_from does nothing without --warmup"):
        settings_of("--warmup_from=0.2", "--dry_run")
    assert settings_of("--warmup", "--warmup_from=0.2").max_frames


def test_several_inputs_and_a_part_of_each(tmp_path):
    write_clip(tmp_path / "a.mp4", frames=6)
    (tmp_path / "more").mkdir()
    write_clip(tmp_path / "more" / "b.mkv", frames=4)
    values = parsed("-i", tmp_path / "a.mp4", "--input", tmp_path / "more", "--start=2f")
    failures = Failures(lambda line: None)
    media, targets = arguments.find_inputs(values, Settings(checkpoint="x"), failures)
    assert targets == [(192, 256)] * 2 and failures.count == 2 and failures.lines == []
    assert [(one.path.name, one.first, one.num_frames) for one in media] == [
        ("a.mp4", 2, 4),
        ("b.mkv", 2, 2),
    ]
    Image.new("RGB", (16, 16)).save(tmp_path / "more" / "c.png")
    media, _ = arguments.find_inputs(values, Settings(checkpoint="x"), failures)
    assert len(media) == 2 and "c.png is a picture" in failures.lines[0]


def test_of_several_names_those_without_a_file_fail_and_a_single_one_ends_the_run(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "fox.png")
    (tmp_path / "empty").mkdir()
    names = [tmp_path / name for name in ("nope.mp4", "fox.png", "*.mkv", "empty")]
    values = parsed(*(f"--input={name}" for name in names))
    failures = Failures(lambda line: None)
    media, _ = arguments.find_inputs(values, Settings(checkpoint="x"), failures)
    assert [one.path.name for one in media] == ["fox.png"] and failures.count == 4
    assert [path.name for path in failures.paths] == ["nope.mp4", "*.mkv", "empty"]
    assert failures.lines[0] == f"there is no file or folder {names[0]}"
    for name in (names[0], names[3]):
        with pytest.raises(UserError, match=r"there is no file or folder|holds no video"):
            arguments.find_inputs(
                parsed("-i", name), Settings(checkpoint="x"), Failures(lambda line: None)
            )
