"""Writing images and folders of frames: refused at once, or complete."""

import errno
import os

import numpy as np
import pytest
from media_clips import picture

from skipsr_jax.errors import UserError
from skipsr_jax.media import image_writer
from skipsr_jax.media.image_reader import read_image
from skipsr_jax.media.image_writer import FrameFolderWriter, write_image
from skipsr_jax.media.reader import open_media


def test_writing_is_refused_or_whole(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    with pytest.raises(UserError, match="must end in"):
        write_image(tmp_path / "a.xyz", picture(0))
    with pytest.raises(UserError, match=r"only \.png"):
        write_image(tmp_path / "a.jpg", picture(0).astype(np.uint16))
    with pytest.raises(UserError, match="there is no folder"):
        write_image(tmp_path / "absent" / "a.png", picture(0))
    with pytest.raises(UserError, match="is a folder"):
        (tmp_path / "folder.png").mkdir()
        write_image(tmp_path / "folder.png", picture(0))
    with pytest.raises(UserError, match="cannot write into"):
        write_image("/proc/a.png", picture(0))
    write_image(target, picture(0))
    with pytest.raises(UserError, match="exists"):
        write_image(target, picture(1))

    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_writer, "_save_rgb", full)
    with pytest.raises(UserError, match="No space left"):
        write_image(target, picture(1), overwrite=True)
    np.testing.assert_array_equal(read_image(target).rgb, picture(0))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "folder.png"]


def test_frame_folder(tmp_path):
    source = tmp_path / "in"
    with FrameFolderWriter(source) as out:
        for index in range(3):
            out.write(picture(index))
        assert not source.exists()
    media = open_media(source)
    assert [file.name for file in media.files] == ["000000.png", "000001.png", "000002.png"]
    (source / "000001.png").rename(source / "000001b.png")
    media = open_media(source)
    with FrameFolderWriter(tmp_path / "out", source=media) as out:
        for frame in media.frames():
            out.write(frame.astype(np.uint16) * 257)
    made = open_media(tmp_path / "out")
    assert [file.stem for file in made.files] == ["000000", "000001b", "000002"]
    assert made.bit_depth == 16
    np.testing.assert_array_equal(next(made.frames()), picture(0).astype(np.uint16) * 257)


def test_frame_folder_refuses_and_cleans_up(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), FrameFolderWriter(target) as out:
        out.write(picture(0))
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    target.mkdir()  # empty: may be filled
    with FrameFolderWriter(target) as out:
        out.write(picture(0))
    with pytest.raises(UserError, match="not empty"):
        FrameFolderWriter(target)
    with FrameFolderWriter(target, overwrite=True) as out:
        out.write(picture(1))
    np.testing.assert_array_equal(next(open_media(target).frames()), picture(1))
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        FrameFolderWriter(target, overwrite=True)
    with pytest.raises(UserError, match="there is no folder"):
        FrameFolderWriter(tmp_path / "absent" / "out")
