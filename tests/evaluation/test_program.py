"""How the programs of evaluation end: mistakes before work, late errors and signals in a line."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import analyse, compare, program, study

IMPORTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "absl":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIG_IGN
sys.meta_path.insert(0, Finder())
import runpy
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""

PROGRAMS = {
    "compare": (compare.main, ["--result=nowhere.png"]),
    "study": (study.main, ["--score=nowhere.json"]),
    "analyse": (analyse.main, ["--source=nowhere", "--noswap", "--nopredictor"]),
}


def said_of(name, capsys, *arguments):
    main, given = PROGRAMS[name]
    assert main([name, *given, *arguments]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_output_that_cannot_be_written_is_found_first(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder/in").mkdir(parents=True)
    for out in ("file/x", "folder", "file", "/dev/full", "x" * 300):
        said = said_of(name, capsys, f"--out={out}")
        assert out in said and "nowhere" not in said
    assert sorted(os.listdir()) == ["file", "folder"] and (tmp_path / "file").read_text() == "old"
    if name != "analyse":  # which makes parents, and replaces nothing
        assert "there is no folder none" in said_of(name, capsys, "--out=none/x.json")
        assert "give --overwrite" in said_of(name, capsys, "--out=file")
        assert "nowhere" in said_of(name, capsys, "--out=file", "--overwrite")


def test_outputs_are_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = said_of("compare", capsys, "--out=p.html", "--page=p.html")
    assert "within --page=p.html" in said
    (tmp_path / "p").mkdir()
    assert "within --page=p" in said_of("compare", capsys, "--out=p/s.json", "--page=p")
    for out in ("p", "p/analysis"):
        said = said_of("analyse", capsys, f"--out={out}", "--figure=p", "--plots=none")
        assert "within --figure=p" in said


def test_what_a_program_reads_is_kept(tmp_path, monkeypatch, capsys):
    """By its name, by a hard link and through symbolic links, as --out and as --page."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", "red"), ("b", "blue")):
        pathlib.Path(name).mkdir()
        Image.new("RGB", (32, 32), colour).save(f"{name}/x.png")
    page = compare.main(["compare", "--result=a/x.png", "--metrics=niqe", "--page=page"])
    assert page == 0
    (shown,) = pathlib.Path("page/media").iterdir()
    os.link("b/x.png", "hard.html")
    os.symlink("a/x.png", "soft.html")
    os.symlink("a", "linked")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    of_pair = ["--result=a", "--truth=b", "--metrics=psnr"]
    of_study = ["--a=a", "--b=b"]
    for main, arguments in (
        (compare.main, [*of_pair, "--out=b/x.png"]),
        (compare.main, [*of_pair, "--out=hard.html"]),
        (compare.main, [*of_pair, "--page=soft.html"]),
        (compare.main, [*of_pair[1:], "--result=linked", "--out=a/x.png"]),
        (compare.main, [f"--result={shown}", "--metrics=niqe", "--page=page"]),
        (study.main, [*of_study, "--out=hard.html"]),
        (study.main, [f"--a={shown}", "--b=b/x.png", "--out=page"]),
        (study.main, ["--score=a.json", "--out=a.json"]),
    ):
        pathlib.Path("a.json").write_text("{}")
        capsys.readouterr()
        assert main(["program", *arguments, "--overwrite"]) == 1
        said = capsys.readouterr().err
        assert "the input" in said or "an input itself" in said
        assert said.count("\n") == 1
    assert before.items() <= {p: p.read_bytes() for p in before}.items()
    for flag in ("out", "figure"):  # which replace nothing
        arguments = ["--source=a", f"--{flag}=a", "--plots=none"]
        assert "exists already" in said_of("analyse", capsys, *arguments)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.json: No space left"):
        program.write_json(tmp_path / "a.json", {}, overwrite=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line(name, number, status, monkeypatch, capsys):
    def stopped(*arguments, **keywords):
        os.kill(os.getpid(), number)
        threading.Event().wait(600)

    monkeypatch.setattr(compare, "find_clips", stopped)
    monkeypatch.setattr(analyse, "find_clips", stopped)
    monkeypatch.setattr(study, "answer_files", stopped)
    main, arguments = PROGRAMS[name]
    assert main([f"bin/{name}.py", *arguments]) == status
    word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert capsys.readouterr().err == f"{name}.py: stopped by {word}\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_signal_while_a_program_is_imported_is_one_line(name):
    code = [sys.executable, "-c", IMPORTING, f"skipsr_jax.evaluation.{name}"]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 130
    assert done.stderr == f"{name}.py: stopped by Ctrl-C\n"
