"""Several inputs: failures are named, the others are done, and a rerun does what is missing."""

import errno
import pathlib

import pytest
import small_model
from media_clips import picture
from PIL import Image

from skipsr_jax.cli import infer
from skipsr_jax.cli.batch import Failures
from skipsr_jax.errors import UserError
from skipsr_jax.inference import cost
from skipsr_jax.inference.api import settings_from


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_model.write_small_model(tmp_path_factory.mktemp("batch") / "model")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five pictures, one of them cut off; the working directory is the folder above."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcde":
        Image.fromarray(picture(ord(name), 16, 24)).save(folder / f"{name}.png")
    cut = folder / "c.png"
    cut.write_bytes(cut.read_bytes()[:100])
    return folder


def made():
    """What the folder of results holds, by name."""
    return {path.name: path.read_bytes() for path in pathlib.Path("out").glob("*.png")}


def test_a_broken_file_of_five_is_named_and_a_second_run_does_that_one_alone(
    folder, checkpoint, capsys
):
    command = ("infer.py", "--input=in", "--output=out", f"--config.checkpoint={checkpoint}",
               "--config.size.factor=2", "--config.mask.source=none")  # fmt: skip
    assert infer.main(command) == 1
    first, said = made(), capsys.readouterr()
    assert sorted(first) == [f"{name}_x2.png" for name in "abde"]
    (line,) = said.err.splitlines()
    assert line.startswith("infer.py: 1 of 5 inputs failed: ") and "c.png is damaged" in line

    page = pathlib.Path("report.html")
    assert infer.main([*command, "--page=report.html"]) == 1  # nothing is done, no model loaded
    said = capsys.readouterr()
    assert "Not on the page, because they failed: c.png." in said.out
    shown = page.read_text("utf-8")
    assert all(f'"file": "{name}_x2.png"' in shown for name in "abde") and "c.png" in shown
    assert said.out.count("is done already") == 4 and "model" not in said.out
    assert len(said.err.splitlines()) == 1 and made() == first

    Image.fromarray(picture(0, 16, 24)).save(folder / "c.png")
    assert infer.main(command) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count(" -> ") == 1 + 1  # the summary: names, and sizes
    now = made()
    assert len(now) == 5 and now.items() >= first.items()


def test_results_of_one_name_fail_and_the_others_are_done(folder, checkpoint, capsys):
    Image.fromarray(picture(0, 16, 24)).save(folder / "c.png")
    Image.fromarray(picture(0, 16, 24)).save(folder / "a.jpg")
    command = ("infer.py", "--input=in", "--input=in/b.png", "--output=out", "--overwrite",
               "--config.size.factor=2", "--config.mask.source=none",
               f"--config.checkpoint={checkpoint}")  # fmt: skip
    assert infer.main(command) == 1
    assert sorted(made()) == [f"{name}_x2.png" for name in "bcde"]
    assert capsys.readouterr().err.splitlines() == [
        "infer.py: 3 of 7 inputs failed",
        "infer.py: in/a.jpg and in/a.png would both become a_x2.png: rename one",
        "infer.py: in/a.png and in/a.jpg would both become a_x2.png: rename one",
        "infer.py: in/b.png is given twice: name it once",
    ]


@pytest.fixture
def one_too_large(folder, checkpoint, monkeypatch):
    """The command for five pictures, of which c.png needs more memory than there is."""
    Image.fromarray(picture(0, 64, 96)).save(folder / "c.png")
    settings = settings_from("tiny", {"checkpoint": str(checkpoint)})
    model = cost.described(settings)
    small, large = (cost.memory_need(model, settings, (1, s)).total for s in ((32, 48), (128, 192)))
    monkeypatch.setattr(cost, "memory_limit", lambda model: (small + large) // 2)
    return ["infer.py", "--input=in", "--output=out", f"--config.checkpoint={checkpoint}",
            "--config.size.factor=2", "--config.mask.source=none"]  # fmt: skip


def test_an_input_that_needs_too_much_memory_is_named_beside_what_the_others_take(
    one_too_large, capsys
):
    assert infer.main([*one_too_large, "--dry_run"]) == 1
    said = capsys.readouterr()
    assert said.out.count("  memory ") == 4
    (line,) = said.err.splitlines()
    assert line.startswith("infer.py: 1 of 5 inputs failed: ")
    assert "c.png: 192x128, 1 frame, needs about" in line


@pytest.mark.slow
def test_an_input_that_needs_too_much_memory_does_not_stop_the_others(one_too_large, capsys):
    assert infer.main(one_too_large) == 1
    assert sorted(made()) == [f"{name}_x2.png" for name in "abde"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "c.png: 192x128, 1 frame, needs about" in line


def test_what_was_made_from_something_else_is_neither_kept_nor_replaced(folder, checkpoint, capsys):
    command = ["infer.py", "--input=in/a.png", "--output=out.png", "--config.size.factor=2",
               f"--config.checkpoint={checkpoint}", "--config.mask.source=none"]  # fmt: skip
    assert infer.main(command) == 0
    capsys.readouterr()
    assert infer.main([*command, "--config.seed=1"]) == 1
    assert "made from another config" in capsys.readouterr().err
    Image.fromarray(picture(9, 16, 24)).save(folder / "a.png")
    assert infer.main(command) == 1
    assert "made from another input" in capsys.readouterr().err
    Image.fromarray(picture(9, 16, 24)).save("out.png")
    assert infer.main(command) == 1
    assert "out.png exists: give --overwrite" in capsys.readouterr().err


def test_the_only_input_fails_as_it_is():
    failures = Failures(print)
    failures.count = 1
    with pytest.raises(UserError, match="bad"), failures.of(pathlib.Path("a")):
        raise UserError("bad")


def test_a_full_disk_ends_the_run_and_other_errors_do_not(capsys):
    failures = Failures(lambda line: None)
    failures.count = 3
    for name in ("one.png", "two.png"):
        with failures.of(pathlib.Path(name)):
            raise UserError("bad")
    with pytest.raises(UserError, match="full"), failures.of(pathlib.Path("c")):
        raise UserError("full") from OSError(errno.ENOSPC, "no space")
    assert failures.report("infer.py") == 1
    assert capsys.readouterr().err.splitlines() == [
        "infer.py: 2 of 3 inputs failed", "infer.py: one.png: bad", "infer.py: two.png: bad"
    ]  # fmt: skip
