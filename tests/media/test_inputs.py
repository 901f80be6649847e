"""Which inputs a path stands for: files, clips of frames, and the order of both."""

from media_clips import save_frames, write_clip

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
