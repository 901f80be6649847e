"""Frames in a folder: what is missing or cut off is named before any work, in one line."""

import pytest
from media_clips import save_frames
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media


def test_a_hole_in_the_numbers_is_named_and_the_others_are_one_clip(tmp_path):
    folder = save_frames(tmp_path / "clip", 16)  # 8 to 23
    for number in (10, 14, 15):
        (folder / f"frame_{number}.png").unlink()
    assert list_inputs(folder) == [folder]
    media = open_media(folder)
    (line,) = media.notes
    assert media.num_frames == len(list(media.frames())) == 13
    assert line.startswith("3 of its frames are missing: number 10, 14 to 15; the 13 others")
    assert open_media(save_frames(tmp_path / "whole", 3)).notes == ()


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif"])
def test_all_frames_that_are_cut_off_are_named(tmp_path, extension):
    folder = save_frames(tmp_path / "clip", 5, f"f_{{:d}}.{extension}")
    assert open_media(folder).num_frames == 5
    for number in (9, 11):
        cut = folder / f"f_{number}.{extension}"
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (folder / f"f_12.{extension}").write_bytes(b"")
    assert list_inputs(folder) == [folder]
    with pytest.raises(UserError) as error:
        open_media(folder)
    line = str(error.value)
    assert line.startswith(f"{folder}: 3 of 5 frames cannot be read: f_9.{extension} ")
    assert f", f_11.{extension} " in line and f", f_12.{extension} is empty" in line
    assert "\n" not in line and f"f_8.{extension}" not in line


def test_bytes_behind_an_image_are_no_damage(tmp_path):
    folder = save_frames(tmp_path / "clip", 2, "f_{:d}.jpg")
    with (folder / "f_8.jpg").open("ab") as file:
        file.write(b"more")
    assert open_media(folder).num_frames == 2


def test_numbered_pictures_of_two_sizes_are_separate_though_one_is_broken(tmp_path):
    folder = save_frames(tmp_path / "pictures", 3)
    Image.new("RGB", (9, 9)).save(folder / "frame_11.png")
    (folder / "frame_9.png").write_bytes(b"no image")
    assert len(list_inputs(folder)) == 4
