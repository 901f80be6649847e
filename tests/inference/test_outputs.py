"""Names of results, and what refuses before any work."""

import pathlib

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference import outputs
from skipsr_jax.inference.settings import Output, Size
from skipsr_jax.media.reader import Media

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


def test_two_inputs_of_one_name_are_refused(tmp_path):
    pair = [media("p.jpg", "image"), media("p.png", "image")]
    with pytest.raises(UserError, match=r"p_x4\.png"):
        outputs.output_paths(pair, [(40, 80)] * 2, FOUR, str(tmp_path))


def test_an_existing_folder_takes_the_default_name(tmp_path):
    assert outputs.output_paths([media("c.mp4")], [(40, 80)], FOUR, str(tmp_path)) == [
        tmp_path / "c_x4.mp4"
    ]


def test_the_input_is_never_replaced(tmp_path):
    path = tmp_path / "c.mp4"
    path.touch()
    with pytest.raises(UserError, match="the input itself"):
        outputs.check_output(path, media(path), (40, 80), Output(), True)


def test_frames_have_no_rate(tmp_path):
    shots = media(tmp_path, "frames")
    with pytest.raises(UserError, match="no frame rate"):
        outputs.check_output(tmp_path / "out.mp4", shots, (40, 80), Output(), False)
