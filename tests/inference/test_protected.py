"""No output is an input of the run, by whatever name."""

import os
import pathlib

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.files import identity
from skipsr_jax.inference import protected
from skipsr_jax.inference.protected import check_protected, check_unchanged
from skipsr_jax.media.reader import Media


def media(path, *files):
    return Media(path, "video", 10, 20, 8, 3, files=files)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.touch()
    return path


def test_an_input_by_any_name_is_no_output(tmp_path, clip):
    other = media(tmp_path / "other.mp4")
    linked, alias = tmp_path / "linked.mp4", tmp_path / "alias"
    os.link(clip, linked)
    alias.symlink_to(tmp_path)
    for output in (clip, linked, alias / "clip.mp4"):
        with pytest.raises(UserError, match="input"):
            check_protected([tmp_path / "new.mp4", output], [other, media(clip)], "")
        with pytest.raises(UserError, match="input"):  # the reference of the masks
            check_protected([output], [other], str(clip))
    check_protected([tmp_path / "new.mp4"], [other, media(clip)], str(clip))


def test_a_folder_that_holds_an_input_is_not_replaced(tmp_path, clip):
    frames, out = tmp_path / "frames", tmp_path / "out"
    for folder in (frames, out):
        folder.mkdir()
    (frames / "0.png").touch()
    os.link(frames / "0.png", out / "7.png")
    shots = media(frames, frames / "0.png")
    for output in (frames, out, tmp_path):
        with pytest.raises(UserError, match="input"):
            check_protected([output], [shots, media(clip)], "")
    with pytest.raises(UserError, match=r"holds 7\.png"):
        check_protected([out], [media(clip)], str(frames))


def test_nothing_is_written_among_the_frames_of_an_input(tmp_path, clip):
    frames, alias = tmp_path / "frames", tmp_path / "alias"
    frames.mkdir()
    alias.symlink_to(frames)
    shots = Media(frames, "frames", 10, 20, 8, 3, files=(frames / "0.png",))
    for output in (frames / "frames_x2", alias / "clip_x2.mp4"):
        with pytest.raises(UserError, match="among the frames of"):
            check_protected([output], [shots, media(clip)], "")
    check_protected([tmp_path / "frames_x2"], [shots], "")


def test_two_outputs_of_one_name_are_refused_where_case_says_nothing(tmp_path, monkeypatch):
    pair = [tmp_path / "Clip_x4.mp4", tmp_path / "clip_x4.mp4"]
    check_protected(pair, [], "")
    with pytest.raises(UserError, match="would both become"):
        check_protected([pair[0], pathlib.Path(pair[0])], [], "")
    found = pathlib.Path.exists
    monkeypatch.setattr(
        pathlib.Path, "exists",
        lambda path: any(e.name.lower() == path.name.lower() for e in path.parent.iterdir()),
    )  # fmt: skip
    assert protected._are_one(*pair)
    monkeypatch.setattr(pathlib.Path, "exists", found)
    assert list(tmp_path.iterdir()) == []


def test_what_came_during_the_run_is_not_replaced(tmp_path, clip):
    later = tmp_path / "later.mp4"
    before = {path: identity(path) for path in (clip, later)}
    for path, found in before.items():
        check_unchanged(path, found)
        path.write_text("another's")
        with pytest.raises(UserError, match="since the run began"):
            check_unchanged(path, found)
