"""Moments as users write them, and the frames that lie between two of them."""

from fractions import Fraction

import numpy as np
import pytest
from media_clips import write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.moments import Moment, moment_of, part_between
from skipsr_jax.media.reader import open_media


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90", Moment(Fraction(90))),
        ("90.5s", Moment(Fraction(181, 2))),
        (".25", Moment(Fraction(1, 4))),
        ("1:30.5", Moment(Fraction(181, 2))),
        ("1:00:01", Moment(Fraction(3601))),
        ("2700f", Moment(frames=2700)),
        ("0f", Moment(frames=0)),
    ],
)
def test_seconds_and_frames(text, moment):
    assert moment_of(text, "--start") == moment


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", "1.5f", "1e3", "nan"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match=r"--end is .*: it must be seconds"):
        moment_of(text, "--end")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 frames at 24000/1001."""
    return open_media(write_clip(tmp_path_factory.mktemp("film") / "a.mp4", frames=12))


@pytest.mark.parametrize(
    ("start", "end", "limit", "first", "frames"),
    [
        (None, None, 0, 0, 12),
        ("0", "99", 0, 0, 12),
        ("0.1", "0.3", 0, 3, 5),  # frame 3 is shown at 0.125 s, frame 8 at 0.334 s
        ("3f", "8f", 0, 3, 5),
        ("11f", None, 0, 11, 1),
        ("2f", "1:00", 4, 2, 4),
        (None, None, 5, 0, 5),
    ],
)
def test_the_frames_between(film, start, end, limit, first, frames):
    moments = [text and moment_of(text, "--start") for text in (start, end)]
    part = part_between(film, *moments, limit)
    assert (part.first, part.num_frames, part.after) == (first, frames, 12 - first - frames)
    whole = list(film.frames())
    np.testing.assert_array_equal(list(part.frames()), whole[first : first + frames])
    assert part.timing.start == film.timing.start + first / film.frame_rate
    assert part.timing.duration == frames / film.frame_rate


def test_times_of_a_variable_rate(tmp_path):
    media = open_media(
        write_clip(
            tmp_path / "v.mkv",
            frames=6,
            ticks=[0, 40, 80, 300, 340, 380],
            time_base=Fraction(1, 1000),
        )
    )
    part = part_between(media, moment_of("0.081", "--start"), moment_of("0.35", "--end"))
    assert (part.first, part.num_frames) == (3, 2)
    assert part.times == (0, Fraction(40, 1000)) and part.timing.end == part.timing.ticks[0] + 80


def test_nothing_between_is_refused(film):
    for start, end in (("12f", None), ("5f", "5f"), ("2", "1"), ("9:00", None)):
        moments = [text and moment_of(text, "--start") for text in (start, end)]
        with pytest.raises(UserError, match="no frame from --start to --end: it has 12 frames"):
            part_between(film, *moments)


def test_pictures_and_folders(tmp_path):
    for index in range(4):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(tmp_path / f"f_{index}.png")
    folder, picture = open_media(tmp_path), open_media(tmp_path / "f_0.png")
    part = part_between(folder, Moment(frames=1), Moment(frames=3))
    assert [frame[0, 0, 0] for frame in part.frames()] == [1, 2]
    assert [file.name for file in part.files] == ["f_1.png", "f_2.png"]
    with pytest.raises(UserError, match="write --end in frames"):
        part_between(folder, None, Moment(Fraction(1)))
    with pytest.raises(UserError, match="is a picture"):
        part_between(picture, Moment(frames=0), None)
    assert part_between(picture, None, None, 3).num_frames == 1
