"""Interlaced clips: recognised whatever the codec, combed no more, and in step with the sound."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import interlaced, write_clip

from skipsr_jax.media.reader import open_media

FRAMES, HEIGHT, WIDTH = 8, 48, 64
CODECS = {
    "a.mp4": ("libx264", "yuv420p", {"flags": "+ildct", "crf": "4"}),
    "b.ts": ("mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "b": "4M"}),
    "c.mov": ("prores_ks", "yuv422p10le", {"flags": "+ildct"}),
    "d.mkv": ("ffv1", "yuv422p", {}),
    "e.avi": ("mpeg4", "yuv420p", {"flags": "+ildct", "b": "4M"}),
    "f.mov": ("v210", "yuv422p10le", {}),  # whose frames say nothing
}


def bar(time):
    """A grey picture with a white bar that moves four columns in each field."""
    rgb = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    left = 4 + 4 * time
    rgb[:, left % WIDTH : left % WIDTH + 12] = 220
    return rgb


def write_fields(path, codec, pixel_format, options):
    """Rows of even numbers are taken at times 0, 2, ..., the others at 1, 3, ..."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixel_format
        stream.codec_context.field_order = 2
        for index in range(FRAMES):
            rgb = bar(2 * index)
            rgb[1::2] = bar(2 * index + 1)[1::2]
            frame = av.VideoFrame.from_ndarray(rgb).reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(interlaced(frame)))
        container.mux(stream.encode(None))
    return path


def combing(frame):
    """How much neighbouring rows differ; the bar of a progressive picture is upright."""
    return np.abs(np.diff(frame.astype(float), axis=0)).mean() / (1 if frame.max() < 256 else 257)


@pytest.mark.parametrize("name", CODECS)
def test_fields_become_frames(tmp_path, name):
    path = write_fields(tmp_path / name, *CODECS[name])
    media, coded = open_media(path), open_media(path, deinterlace="off")
    assert any("interlaced: deinterlaced" in note for note in media.notes)
    assert any("because of --config.input.deinterlace=off" in note for note in coded.notes)
    frames, raw = list(media.frames()), list(coded.frames())
    assert len(frames) == len(raw) == media.num_frames == FRAMES
    assert media.frame_rate == 25 and media.times is None
    for index in range(1, FRAMES - 1):
        assert combing(raw[index]) > 8 > 4 * combing(frames[index])


def test_a_frame_of_each_field(tmp_path):
    path = write_fields(tmp_path / "a.mp4", *CODECS["a.mp4"])
    media = open_media(path, deinterlace="field")
    frames = list(media.frames())
    assert len(frames) == media.num_frames == 2 * FRAMES
    assert media.frame_rate == 50 and media.timing.duration == Fraction(FRAMES, 25)
    for time in range(2, 2 * FRAMES - 2):
        assert abs(frames[time].astype(float) - bar(time)).mean() < 8
    for start, stop in ((0, 3), (5, 9), (2 * FRAMES - 1, 2 * FRAMES)):
        part = list(media.video.frames(start, stop))
        assert all(map(np.array_equal, part, frames[start:stop])) and len(part) == stop - start


def test_frames_that_are_not_interlaced_pass_unchanged(tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", frames=5)
    assert open_media(path).notes == ()
    for one, other in zip(
        open_media(path).frames(), open_media(path, deinterlace="off").frames(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    write_clip(tmp_path / "one.ts", frames=4, codec="mpeg2video", rate=Fraction(25))
    write_fields(tmp_path / "two.ts", *CODECS["b.ts"])
    path = tmp_path / "b.ts"
    path.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    media = open_media(path)
    frames, raw = list(media.frames()), list(open_media(path, deinterlace="off").frames())
    assert media.notes == () and "interlaced from frame 3 on" in caplog.text
    assert len(frames) == 3 + FRAMES  # the decoder drops the last frame before the change
    assert all(map(np.array_equal, frames[:3], raw[:3]))
    assert combing(raw[6]) > 8 > 4 * combing(frames[6])


def test_pictures_that_are_fields_are_left_alone_and_it_is_said(tmp_path):
    """H.265 has no frames of two fields: a picture is one, and the next is the other."""
    path = write_clip(
        tmp_path / "a.mkv", frames=6, height=64, codec="libx265",
        options={"x265-params": "log-level=none:interlace=tff"},
    )  # fmt: skip
    media, coded = open_media(path), open_media(path, deinterlace="off")
    (note,) = media.notes
    assert "single fields" in note and "weave" in note
    frames = list(media.frames())
    assert len(frames) == media.num_frames == 6
    assert all(map(np.array_equal, frames, coded.frames()))
