"""Jumps of time stamps: joined recordings play on, and the sound stays with the picture."""

from fractions import Fraction

import av
import pytest
from media_clips import picture, write_clip

from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter


def joined(tmp_path, shift=0.0, extension=".ts", count=10):
    """Two recordings with audio as one file; the clock of the second is ``shift`` seconds on."""
    parts = []
    for number in (0, 1):
        path = tmp_path / f"part{number}{extension}"
        write_clip(path, frames=count, rate=Fraction(25), audio="mp2", codec="mpeg2video",
                   muxer={"output_ts_offset": str(shift * number)})  # fmt: skip
        parts.append(path.read_bytes())
    whole = tmp_path / f"joined{extension}"
    whole.write_bytes(b"".join(parts))
    return whole


@pytest.mark.parametrize("extension", [".ts", ".mpg"])
@pytest.mark.parametrize("shift", [0.0, 3600.0])
def test_joined_recordings_play_on(tmp_path, extension, shift):
    media = open_media(joined(tmp_path, shift, extension))
    frames = list(media.frames())
    assert len(frames) == media.num_frames == 20
    assert float(media.timing.duration) == pytest.approx(0.8, abs=0.05)
    for index in (0, 9, 10, 19):
        assert abs(frames[index].astype(float) - picture(index % 10)).mean() < 6


def test_the_sound_of_joined_recordings_stays_with_the_picture(tmp_path):
    media = open_media(joined(tmp_path, count=25))
    with VideoWriter(tmp_path / "out.mp4", height=48, width=64, source=media) as writer:
        for frame in media.frames():
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        seconds = {
            stream.type: float(stream.duration * stream.time_base) for stream in container.streams
        }
    assert seconds == {"video": pytest.approx(2.0, abs=0.1), "audio": pytest.approx(2.0, abs=0.1)}


def test_a_pause_in_a_file_without_a_clock_of_its_own_stays(tmp_path):
    ticks = [0, 1, 2, 50, 51]  # a slide show: 48 seconds on one picture
    media = open_media(
        write_clip(tmp_path / "a.mkv", frames=5, ticks=ticks, time_base=Fraction(1, 1))
    )
    assert media.times == tuple(map(Fraction, ticks))
