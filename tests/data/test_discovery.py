"""Finding training clips: the files, and the folders that are clips, that inference knows."""

import errno
import logging
import os
from fractions import Fraction

import pytest
from media_clips import picture, save_frames, write_clip
from PIL import Image

from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.media.inputs import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, list_inputs, media_files


def found(root):
    return [(s.path.rsplit("/", 1)[1], s.kind, s.frames, s.height, s.width)
            for s in find_sources([str(root)])]  # fmt: skip


def test_sources_are_found_with_their_sizes(tmp_path):
    write_clip(tmp_path / "b.mkv", frames=11)
    write_clip(tmp_path / "turned.mp4", frames=3, rotation=90)
    save_frames(tmp_path / "shot", 3)
    Image.fromarray(picture(0, 32, 48)).save(tmp_path / "photo.png")
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "._b.mkv").write_text("passed over")
    save_frames(tmp_path / ".hidden", 3)
    assert found(tmp_path) == [
        ("b.mkv", "video", 11, 48, 64),
        ("photo.png", "image", 1, 32, 48),
        ("shot", "frames", 3, 48, 64),
        ("turned.mp4", "video", 3, 64, 48),
    ]


def test_training_and_inference_know_the_same_extensions(tmp_path):
    for number, extension in enumerate(sorted(IMAGE_EXTENSIONS)):
        Image.fromarray(picture(0)).save(tmp_path / f"{chr(97 + number)}{extension}")
    for extension in sorted(VIDEO_EXTENSIONS - {".3gp", ".mxf", ".y4m"}):
        codec = {".flv": "flv1", ".gif": "gif", ".webm": "libvpx-vp9", ".wmv": "wmv2",
                 ".asf": "wmv2", ".mpg": "mpeg2video", ".mpeg": "mpeg2video",
                 ".vob": "mpeg2video", ".ogv": "libvpx"}.get(extension, "libx264")  # fmt: skip
        if extension == ".gif":
            frames = [Image.fromarray(picture(index)) for index in range(5)]
            frames[0].save(tmp_path / "z.gif", save_all=True, append_images=frames[1:])
        else:
            write_clip(tmp_path / f"z{extension}", frames=5, codec=codec, rate=Fraction(25))
    assert len(media_files(tmp_path)) == len(IMAGE_EXTENSIONS | VIDEO_EXTENSIONS) - 3
    assert {name for name, *_ in found(tmp_path)} == {file.name for file in list_inputs(tmp_path)}


def test_folders_are_clips_where_inference_takes_them_for_clips(tmp_path, caplog):
    save_frames(tmp_path / "clip", 3)
    (tmp_path / "clip" / "Thumbs.db").write_text("passed over")
    save_frames(save_frames(tmp_path / "gap", 2), 2, start=50)
    save_frames(save_frames(tmp_path / "sizes", 2), 1, start=10, height=20)
    with caplog.at_level(logging.INFO):
        kinds = {source.path for source in find_sources([str(tmp_path)]) if source.kind == "frames"}
    assert kinds == {str(tmp_path / "clip")}
    assert [list_inputs(tmp_path / name) == [tmp_path / name] for name in ("clip", "gap", "sizes")
            ] == [True, False, False]  # fmt: skip
    said = [record.getMessage() for record in caplog.records]
    assert sum("each taken alone" in line for line in said) == 2
    assert {kind for _, kind, *_ in found(tmp_path / "clip")} == {"image"}  # not a root itself


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="not found"):
        find_sources([str(tmp_path / "absent")])
    with pytest.raises(UserError, match="no videos or pictures"):
        find_sources([str(tmp_path)])
    (tmp_path / "broken.mp4").write_text("text")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        find_sources([str(tmp_path)])


def test_a_file_that_cannot_be_read_is_passed_over_and_named(tmp_path, caplog):
    Image.fromarray(picture(0, 32, 48)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = find_sources([str(tmp_path)], strict=False)
    assert [source.path for source in sources] == [str(tmp_path / "good.png")]
    assert all(name in caplog.text for name in ("bad.png", "bad.mp4"))
    with pytest.raises(UserError, match="bad"):
        find_sources([str(tmp_path)])


def test_a_folder_that_must_not_be_searched_is_passed_over_and_named(tmp_path, caplog, monkeypatch):
    Image.fromarray(picture(0, 32, 48)).save(tmp_path / "good.png")
    locked, scandir = tmp_path / "locked", os.scandir
    locked.mkdir()

    def guarded(path):
        if str(path) == str(locked):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    passed_over = []
    assert len(find_sources([str(tmp_path)], False, passed_over)) == 1
    assert passed_over == [f"{locked}: Permission denied"] and "locked" in caplog.text
    with pytest.raises(UserError, match="locked: Permission denied"):
        find_sources([str(tmp_path)])
