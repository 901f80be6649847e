"""Names of results, and what refuses before any work."""

import pathlib

import numpy as np
import pytest
from media_clips import picture, write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.files import shortened
from skipsr_jax.inference import done_notes, outputs
from skipsr_jax.inference.settings import Output, Size
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.reader import Media, open_media

FOUR = Size(4.0, 0, 0)


def media(name, kind="video", audio=False):
    return Media(pathlib.Path(name), kind, 10, 20, 8, 3, has_audio=audio)


@pytest.mark.parametrize(
    ("given", "size", "want"),
    [
        (media("a/clip.mp4"), FOUR, "clip_x4.mp4"),
        (media("clip.webm"), FOUR, "clip_x4.webm"),
        (media("clip.avi"), FOUR, "clip_x4.mp4"),
        (media("clip.avi", audio=True), FOUR, "clip_x4.mkv"),
        (media("p.jpg", "image"), Size(1.5, 0, 0), "p_x1.5.png"),
        (media("shots", "frames"), Size(4.0, 40, 0), "shots_80x40"),
    ],
)
def test_default_names(given, size, want):
    assert outputs.default_name(given, (40, 80), size) == want


def test_inputs_whose_results_would_have_one_name_are_both_named():
    given = [media(name, "image") for name in ("in/p.jpg", "p.png", "q.png", "p.png", "./q.png")]
    lines = outputs.clashes(given, [(40, 80)] * 5, FOUR)
    assert lines[0] == "in/p.jpg and p.png would both become p_x4.png: rename one"
    assert lines[1] == "p.png and in/p.jpg would both become p_x4.png: rename one"
    assert lines[2] == ""
    assert lines[3] == "p.png is given twice: name it once"
    assert lines[4] == "q.png is given twice: name it once"


@pytest.mark.parametrize("name", ["o.mp4", "o.MKV", "o.gif", "o.avi", "o.png"])
def test_no_folder_is_made_with_the_name_of_a_media_file(tmp_path, name):
    target = tmp_path / name
    with pytest.raises(UserError, match=r"several results into one file .*: name a folder"):
        outputs.output_paths([media("c.mp4")], [(40, 80)], FOUR, str(target), several=True)
    if name in ("o.gif", "o.avi", "o.png"):  # frames become no video without a rate
        with pytest.raises(UserError, match=r"frames into one file .*: name a folder"):
            outputs.check_output(target, media("fr", "frames"), (40, 80), Output(), False)
    assert not target.exists()
    target.mkdir()
    paths = outputs.output_paths([media("c.mp4")], [(40, 80)], FOUR, str(target), several=True)
    assert paths == [target / "c_x4.mp4"]


def test_an_existing_folder_takes_the_default_name(tmp_path):
    assert outputs.output_paths([media("c.mp4")], [(40, 80)], FOUR, str(tmp_path)) == [
        tmp_path / "c_x4.mp4"
    ]


@pytest.mark.parametrize("kind", ["frames", "video"])
def test_a_folder_that_is_a_result_is_not_one_for_results(tmp_path, kind):
    """The same command a second time finds its result, also where it was changed since."""
    given, folder = media("fr.mov" if kind == "video" else "fr", kind), tmp_path / "nd"

    def found():
        (path,) = outputs.output_paths([given], [(40, 80)], FOUR, str(folder))
        return path

    assert found() == folder
    folder.mkdir()
    (folder / "0.png").touch()
    inside = folder / outputs.default_name(given, (40, 80), FOUR)
    assert found() == inside  # nobody knows whose image it is
    done_notes.note_done(folder, {"input": "a"})
    assert found() == folder
    (folder / "1.png").touch()
    (folder / ".hidden").touch()
    assert found() == folder
    (folder / "more").mkdir()
    assert found() == inside


def test_the_input_is_never_replaced(tmp_path):
    path = tmp_path / "c.mp4"
    path.touch()
    with pytest.raises(UserError, match="the input itself"):
        outputs.check_output(path, media(path), (40, 80), Output(), True)


def test_frames_have_no_rate(tmp_path):
    shots = media(tmp_path, "frames")
    with pytest.raises(UserError, match="no frame rate"):
        outputs.check_output(tmp_path / "out.mp4", shots, (40, 80), Output(), False)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("readme.txt", "video", "a video name must end in one of"),
        ("readme.txt", "image", "an image name must end in one of"),
        ("readme.mp4", "frames", "no frame rate"),
    ],
)
def test_overwriting_is_not_advised_where_it_would_not_help(tmp_path, name, kind, words):
    (tmp_path / name).touch()
    clip = write_clip(tmp_path / "c.mp4", frames=2)
    given = open_media(clip) if kind == "video" else media(clip, kind)
    with pytest.raises(UserError, match=words):
        outputs.check_output(tmp_path / name, given, (40, 80), Output(), False)


NAMES = ["a:b", "concat:x", "50%d", "%03d", "-dash", "new\nline", "caf\udce9", "x" * 249, "日" * 83]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("extension", [".mp4", ".png", ".16.png"])
def test_any_name_of_a_file_is_read_and_written(tmp_path, name, extension):
    name = shortened(name, extension) + extension
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if extension == ".mp4":
        write_clip(tmp_path / "plain.mp4", frames=2).rename(path)
    elif extension == ".png":
        Image.fromarray(picture(0)).save(tmp_path / "plain.png")
        (tmp_path / "plain.png").rename(path)
    else:
        write_image(path, picture(0).astype(np.uint16) * 257)
    given = open_media(path)
    size = given.height, given.width
    (tmp_path / "out").mkdir()
    (target,) = outputs.output_paths([given], [size], Size(1.0, 0, 0), str(tmp_path / "out"))
    outputs.check_output(target, given, size, Output(), False)
    with outputs.open_writer(target, given, size, Output(), False) as writer:
        for frame in given.frames():
            writer.write(frame)
    assert [found.name for found in (tmp_path / "out").iterdir()] == [target.name]
    assert open_media(target).num_frames == given.num_frames


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(UserError, match="too long"):
        outputs.check_output(
            tmp_path / ("x" * 300 + ".mp4"), media("c.mp4"), (40, 80), Output(), False
        )


def test_what_a_format_cannot_hold_by_its_size_is_refused_before_any_work(tmp_path):
    for name, size in (("a.webp", (16, 16384)), ("a.jpg", (65536, 16))):
        with pytest.raises(UserError, match="at most"):
            outputs.check_output(tmp_path / name, media("p.png", "image"), size, Output(), False)
    outputs.check_output(tmp_path / "a.png", media("p.png", "image"), (16, 65536), Output(), False)


def test_settings_of_videos_are_refused_where_no_result_is_one(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    picture = open_media(tmp_path / "a.png")
    video = open_media(write_clip(tmp_path / "a.mp4"))
    for options in ({"codec": "libx265"}, {"crf": 3}, {"audio": "none"}):
        output = Output(**options)
        with pytest.raises(UserError, match=f"config.output.{next(iter(options))} is for videos"):
            outputs.check_options([tmp_path / "b.png"], [picture], output)
        with pytest.raises(UserError, match="is for videos"):
            outputs.check_options([tmp_path / "frames"], [video], output)
        outputs.check_options([tmp_path / "b.png", tmp_path / "b.mp4"], [picture, video], output)
    outputs.check_options([tmp_path / "b.png"], [picture], Output())
