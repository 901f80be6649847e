"""Which inputs a path stands for: files, clips of frames, and the order of both."""

import pytest
from media_clips import save_frames, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.media.inputs import list_inputs


def test_folder_of_files(tmp_path):
    named = save_frames(tmp_path / "named", 1, "cat.png")
    save_frames(named, 1, "dog.png")
    assert [file.name for file in list_inputs(named)] == ["cat.png", "dog.png"]
    gaps = save_frames(save_frames(tmp_path / "gaps", 2), 2, start=50)
    assert len(list_inputs(gaps)) == 4
    sizes = save_frames(save_frames(tmp_path / "sizes", 2), 1, start=10, height=20)
    assert len(list_inputs(sizes)) == 3
    mixed = save_frames(tmp_path / "mixed", 3)
    write_clip(mixed / "clip.mp4")
    assert list_inputs(mixed)[0].name == "clip.mp4"
    assert len(list_inputs(mixed)) == 4
    clip = save_frames(tmp_path / "clip", 3)
    assert len(list_inputs(clip, folder="files")) == 3
    assert list_inputs(mixed, folder="frames") == [mixed]
    assert list_inputs(clip / "frame_8.png") == [clip / "frame_8.png"]


def test_a_data_set_of_folders_of_frames_is_its_clips(tmp_path):
    for name in ("010", "9", "000"):
        save_frames(tmp_path / name, 3)
    save_frames(tmp_path / "photos", 1, "cat.png")
    (tmp_path / "notes").mkdir()
    save_frames(tmp_path / ".hidden", 3)
    (tmp_path / "list.txt").write_text("9")
    assert [path.name for path in list_inputs(tmp_path)] == ["000", "9", "010"]
    assert len(list_inputs(tmp_path, folder="frames")) == 4
    with pytest.raises(UserError, match="holds no video, no image and no folder of frames"):
        list_inputs(tmp_path, folder="files")
    save_frames(tmp_path, 1, "cover.png")
    assert [path.name for path in list_inputs(tmp_path)] == ["cover.png"]
