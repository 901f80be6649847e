"""Files and folders appear complete under their name, or not at all."""

import os
import shutil
import subprocess
import sys

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.files import (
    commit,
    commit_or_rename,
    hold,
    identity,
    is_temporary,
    new_file,
    new_folder,
    remove_leftovers,
    temporary_folder,
    temporary_path,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_temporary_name_is_hidden_recognised_and_used_once(tmp_path):
    path = tmp_path / "clip.of.today.mp4"
    first, second = temporary_path(path), temporary_path(path)
    assert first != second
    assert first.parent == tmp_path
    assert first.name.startswith(".clip.of.today.partial-") and first.suffix == ".mp4"
    assert str(os.getpid()) in first.name
    assert is_temporary(first) and is_temporary(temporary_path(tmp_path / "folder"))
    assert not is_temporary(path) and not is_temporary(tmp_path / "my.partial-1.mp4")


@pytest.mark.parametrize("letter", ["x", "日", "\udce9"])
def test_a_temporary_name_is_no_longer_than_a_name_may_be(tmp_path, letter):
    name = letter * (251 // len(os.fsencode(letter))) + ".mp4"
    temporary = temporary_path(tmp_path / name)
    temporary.touch()
    assert is_temporary(temporary) and temporary.suffix == ".mp4"
    assert len(os.fsencode(temporary.name)) <= 255


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with new_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and names(tmp_path) == ["a.txt"]


def test_nothing_stays_of_a_file_that_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for written in (True, False):
        with pytest.raises(KeyboardInterrupt), new_file(path, overwrite=True) as temporary:
            if written:
                temporary.write_text("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_file_is_replaced_only_where_that_is_allowed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="exists already"), new_file(path):
        pytest.fail("entered")
    with new_file(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    late = tmp_path / "b.txt"
    with pytest.raises(UserError, match="exists already"), new_file(late) as temporary:
        temporary.write_text("mine")
        late.write_text("another's")
    assert late.read_text() == "another's" and names(tmp_path) == ["a.txt", "b.txt"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "above" / "frames"
    with new_folder(path) as temporary:
        (temporary / "0.png").touch()
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "above" / "more") as temporary:
        (temporary / "0.png").touch()
        raise KeyboardInterrupt
    assert names(path) == ["0.png"] and names(path.parent) == ["frames"]


def test_a_folder_is_replaced_where_that_is_allowed_or_it_is_empty(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    with new_folder(path) as temporary:
        (temporary / "0.png").touch()
    with pytest.raises(UserError, match="exists already"), new_folder(path):
        pytest.fail("entered")
    with new_folder(path, overwrite=True) as temporary:
        (temporary / "1.png").touch()
    assert names(path) == ["1.png"] and names(tmp_path) == ["frames"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="exists already"), new_file(tmp_path / "a"):
        pytest.fail("entered")


def test_what_is_complete_leaves_a_temporary_folder(tmp_path):
    with temporary_folder(tmp_path / "out") as scratch:
        (scratch / "inner").mkdir()
        (scratch / "rest").touch()
        commit(scratch / "inner", tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_only_what_was_there_before_is_replaced(tmp_path):
    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    path.write_text("old")
    before = identity(path)
    (tmp_path / "mine").write_text("mine")
    commit(tmp_path / "mine", path, overwrite=True, before=before)
    assert path.read_text() == "mine"
    for name, seen in ((path, before), (other, identity(other))):
        name.write_text("another's")
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(UserError, match=rf"{name.stem}_1\.mp4"):
            commit_or_rename(tmp_path / "mine", name, overwrite=True, before=seen)
        assert name.read_text() == "another's"
        assert name.with_stem(name.stem + "_1").read_text() == "mine"


def test_a_folder_that_got_another_file_meanwhile_is_not_replaced(tmp_path):
    path, mine = tmp_path / "frames", tmp_path / "mine"
    for folder in (path, mine):
        folder.mkdir()
        (folder / "0.png").touch()
    before = identity(path)
    (path / "1.png").touch()
    with pytest.raises(UserError, match="frames_1"):
        commit_or_rename(mine, path, overwrite=True, before=before)
    assert names(path) == ["0.png", "1.png"] and names(tmp_path / "frames_1") == ["0.png"]


def test_without_hard_links_nothing_is_replaced_either(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with new_file(tmp_path / "a") as temporary:
        temporary.write_text("mine")
    assert (tmp_path / "a").read_text() == "mine" and names(tmp_path) == ["a"]
    (tmp_path / "b").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        commit(tmp_path / "b", tmp_path / "a")


WRITES = """
import sys
from skipsr_jax.files import new_file, new_folder
with new_file(sys.argv[1]) as file, new_folder(sys.argv[2]) as folder:
    file.write_text("half")
    (folder / "0.png").touch()
    print("written", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_are_not(tmp_path):
    code = WRITES.replace("sys.argv[1]", "Path(sys.argv[1])").replace(
        "sys.argv[2]", "Path(sys.argv[2])"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", "from pathlib import Path" + code, tmp_path / "a.mp4",
         tmp_path / "frames"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with writer:
        assert writer.stdout.readline() == b"written\n"
        left = names(tmp_path)
        assert len(left) == 2 and remove_leftovers(tmp_path) == [] and names(tmp_path) == left
        writer.kill()
    said = remove_leftovers(tmp_path)
    assert names(tmp_path) == [] and len(said) == 2 and "is removed" in said[0]


def test_the_same_process_number_says_nothing(tmp_path):
    """As in containers, where each run may be process 1: a dead one left a file of our number."""
    temporary_path(tmp_path / "a.mp4").touch()
    with hold(temporary_path(tmp_path / "b.mp4")):
        remove_leftovers(tmp_path)
        (left,) = names(tmp_path)
    assert left.startswith(".b.")


def test_files_of_other_machines_are_left_while_they_may_be_written(tmp_path):
    path = tmp_path / ".a.partial-00000000-4711-9f03a1c2.mp4"
    path.touch()
    assert remove_leftovers(tmp_path) == [] and path.exists()
    os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_a_folder_whose_replacing_was_cut_off_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "my.frames"
    path.mkdir()
    (path / "old.png").touch()
    moves = []
    rename = type(path).replace

    def killed(source, target):
        moves.append(target)
        if len(moves) > 1:
            raise KeyboardInterrupt
        return rename(source, target)

    with pytest.raises(KeyboardInterrupt), new_folder(path, overwrite=True):
        monkeypatch.setattr(type(path), "replace", killed)
    monkeypatch.undo()
    assert not path.exists()
    (said,) = remove_leftovers(tmp_path)
    assert "is back" in said and names(path) == ["old.png"] and names(tmp_path) == ["my.frames"]
    shutil.copytree(path, moves[0])  # killed after the new one came: the old one goes
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["my.frames"]
