"""Files and folders appear complete under their name, or not at all."""

import os

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.files import (
    commit,
    is_temporary,
    new_file,
    new_folder,
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
