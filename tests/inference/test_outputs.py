"""Names of results, and what refuses before any work."""

import pathlib

import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference import outputs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Size
from skipsr_jax.media.reader import Media
from skipsr_jax.tokens.blocks import plan_blocks
from skipsr_jax.tokens.buckets import Bucket

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
        outputs.check_output(path, media(path), overwrite=True)


def test_frames_have_no_rate(tmp_path):
    shots = media(tmp_path, "frames")
    with pytest.raises(UserError, match="no frame rate"):
        outputs.check_output(tmp_path / "out.mp4", shots, overwrite=False)


def test_quantise_rounds_to_the_nearest():
    frame = np.array([[[0.0, 0.4999 / 255, 1.0]]], np.float32)
    np.testing.assert_array_equal(outputs.quantise(frame, 8), [[[0, 0, 255]]])
    assert outputs.quantise(frame, 10).max() == 65535


def test_the_report_adds_up():
    report = Report("x", 4, show=False)
    with report.stage("encode"):
        pass
    report.chunk(np.array([True, False, False, False]), Bucket(64, 16))
    report.chunk(np.zeros(4, bool), None)
    assert report.skipped == 7 / 8
    assert report.buckets == {Bucket(64, 16): 1}
    assert report.seconds["encode"] > 0
    report.blocks("decode", plan_blocks(np.ones((3, 1, 4), bool), 4)[:1], (2, 1, 4))
    report.blocks("decode", None, (2, 1, 4))
    assert report.left_out == "decode 25.0 %"
