"""Encoding with the machine's ffmpeg: the same file as with PyAV's encoder, but for the packets.

There is no encoder in hardware here: software encoders of the machine's ffmpeg take their place.
"""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.media import encoding, ffmpeg_pipe, video_writer
from skipsr_jax.media.encoding import Encoding, encoder_options, resolved, storable
from skipsr_jax.media.hardware_encoders import layout_for, quality_options
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter

SIZE = (64, 96)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")


@pytest.fixture
def piped(monkeypatch):
    """As if PyAV had no encoder."""
    for module in (encoding, video_writer):
        monkeypatch.setattr(module, "in_pyav", lambda codec: False)


def picture(index):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows * 2 + index, columns * 2, rows + columns], -1).astype(np.uint8)


def source(path):
    """A clip of six frames with a track of audio and times that vary."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        video.codec_context.time_base = Fraction(1, 600)
        sound = container.add_stream("aac", rate=48000)
        for index, pts in enumerate((0, 20, 60, 80, 100, 160)):
            frame = av.VideoFrame.from_ndarray(picture(index))
            frame.pts, frame.time_base = pts, Fraction(1, 600)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 12800), np.float32), "fltp", "mono")
        tone.sample_rate, tone.pts = 48000, 0
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    return open_media(path)


def facts_of(path):
    """What players see of a file, and its first frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(0)]
        facts = (
            context.name, context.pix_fmt, context.colorspace, context.color_range,
            stream.sample_aspect_ratio, [time for time, _ in frames],
            [s.codec_context.name for s in container.streams.audio],
        )  # fmt: skip
    return facts, frames[0][1].astype(int)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_file_is_that_of_the_encoder_within(tmp_path, monkeypatch, codec, name):
    clip, found = source(tmp_path / "clip.mp4"), []
    for folder, inside in (("a", True), ("b", False)):
        path = tmp_path / folder / name
        path.parent.mkdir()
        if not inside:
            for module in (encoding, video_writer):
                monkeypatch.setattr(module, "in_pyav", lambda codec: False)
        settings = Encoding(codec=codec, crf=10)
        with VideoWriter(path, height=64, width=96, source=clip, encoding=settings) as writer:
            for index in range(6):
                writer.write(picture(index))
        found.append(facts_of(path))
    assert found[0][0] == found[1][0]
    assert np.abs(found[0][1] - found[1][1]).mean() < 2


@needs_ffmpeg
@pytest.mark.usefixtures("piped")
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_av1_whose_decoder_has_another_name(tmp_path, name):
    if ffmpeg_pipe.layouts_of("libsvtav1") is None:
        pytest.skip("this ffmpeg has no libsvtav1")
    settings = Encoding(codec="libsvtav1", crf=20, preset="12")
    with VideoWriter(tmp_path / name, height=64, width=96, rate=Fraction(25),
                     encoding=settings) as writer:  # fmt: skip
        for index in range(3):
            writer.write(picture(index))
    frames = list(open_media(tmp_path / name).frames())
    assert len(frames) == 3
    assert np.abs(frames[0].astype(int) - picture(0)).mean() < 6


@needs_ffmpeg
@pytest.mark.usefixtures("piped")
def test_many_frames_come_back_in_order(tmp_path):
    path = tmp_path / "long.mp4"
    with VideoWriter(path, height=64, width=96, rate=Fraction(25)) as writer:
        for index in range(300):
            writer.write(np.full((*SIZE, 3), index % 200 + 20, np.uint8))
    with av.open(str(path)) as container:
        means = [frame.to_ndarray(format="gray").mean() for frame in container.decode(0)]
    assert len(means) == 300
    np.testing.assert_allclose(means, np.arange(300) % 200 + 20, atol=3)


@needs_ffmpeg
def test_an_encoder_without_its_device_is_one_line_before_any_work(tmp_path):
    codec = "h264_vaapi"
    if ffmpeg_pipe.layouts_of(codec) is None:
        pytest.skip(f"this ffmpeg has no {codec}")
    path = tmp_path / "out.mp4"
    writer = VideoWriter(
        path, height=64, width=96, rate=Fraction(25), encoding=Encoding(codec=codec)
    )
    with pytest.raises(UserError, match=f"cannot encode with {codec} here: .+") as caught:
        writer.check()
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@needs_ffmpeg
@pytest.mark.usefixtures("piped")
def test_ffmpeg_that_stops_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "out.mp4"
    with (
        pytest.raises(UserError, match="the machine's ffmpeg cannot encode with libx264"),
        VideoWriter(path, height=64, width=96, rate=Fraction(25)) as writer,
    ):
        writer._piped._process.kill()
        for index in range(100):
            writer.write(picture(index))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_nothing_has_is_named(monkeypatch):
    with pytest.raises(UserError, match="no video encoder h264_none: neither PyAV"):
        storable("h264_none")
    monkeypatch.setattr(ffmpeg_pipe, "PROGRAM", "no-such-program")
    assert ffmpeg_pipe.layouts_of("libx264") is None


@pytest.mark.parametrize(
    ("codec", "depth", "pixel_format", "layout"),
    [
        ("h264_nvenc", 8, "yuv420p", "yuv420p"),
        ("hevc_nvenc", 10, "yuv420p10le", "p010le"),
        ("h264_qsv", 8, "yuv420p", "nv12"),
    ],
)
def test_encoders_in_hardware_get_a_layout_that_they_take(codec, depth, pixel_format, layout):
    if not encoding.in_pyav(codec):
        pytest.skip(f"this PyAV has no {codec}")
    found = resolved(Encoding(codec=codec), ".mp4", depth, 64, 96)
    assert found.pixel_format == pixel_format
    assert layout_for(pixel_format, encoding.layouts(codec)) == layout


def test_encoders_in_hardware_get_a_quality():
    asked = resolved(Encoding(codec="h264_nvenc", crf=25), ".mp4", 8, 64, 96)
    assert encoder_options(asked) == {"rc": "vbr", "cq": "25", "b": "0"}
    assert quality_options("h264_vaapi", None) == {"rc_mode": "CQP", "global_quality": "18"}
    assert quality_options("libx264", 20) == {}
