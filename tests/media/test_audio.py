"""Audio: the same packets, at the same distance from the picture, cut to what was upscaled."""

from fractions import Fraction

import av
import pytest
from media_clips import NTSC_FILM, picture, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter


def copy(source, target, count=None, **options):
    media = open_media(source)
    with VideoWriter(
        target, height=media.height, width=media.width, source=media, **options
    ) as out:
        for index, frame in enumerate(media.frames()):
            if count is not None and index >= count:
                break
            out.write(frame)


def audio_packets(path):
    """(seconds after the first picture, bytes) of every packet."""
    start = open_media(path).timing.start
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base - start, bytes(packet))
            for packet in container.demux(audio=0)
            if packet.size
        ]


@pytest.mark.parametrize(
    ("source", "audio", "target"),
    [
        ("in.mp4", "aac", "out.mp4"),
        ("in.mp4", "aac", "out.mkv"),
        ("in.mp4", "aac", "out.mov"),
        ("in.mkv", "aac", "out.mp4"),
        ("in.mkv", "libopus", "out.mp4"),
        ("in.mkv", "libopus", "out.webm"),
        ("in.mkv", "flac", "out.mkv"),
    ],
)
def test_packets_are_copied_in_sync(tmp_path, source, audio, target):
    write_clip(tmp_path / source, frames=40, audio=audio)
    assert open_media(tmp_path / source).has_audio
    copy(tmp_path / source, tmp_path / target)
    before, after = audio_packets(tmp_path / source), audio_packets(tmp_path / target)
    assert [data for _, data in after] == [data for _, data in before]
    for (was, _), (now, _) in zip(before, after, strict=True):
        assert abs(was - now) <= Fraction(2, 1000)  # Matroska counts milliseconds


def test_transport_stream_audio_reaches_mp4(tmp_path):
    write_clip(tmp_path / "in.ts", frames=40, audio="aac")
    copy(tmp_path / "in.ts", tmp_path / "out.mp4")
    before, after = audio_packets(tmp_path / "in.ts"), audio_packets(tmp_path / "out.mp4")
    assert len(after) == len(before)
    assert abs(before[5][0] - after[5][0]) <= Fraction(2, 1000)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0.9 * 48000 * 40 / 24


def test_audio_ends_with_the_last_frame_written(tmp_path):
    write_clip(tmp_path / "in.mp4", frames=48, audio="aac")
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", count=12)
    packets = audio_packets(tmp_path / "out.mp4")
    end = 12 / NTSC_FILM
    assert end - Fraction(1024, 48000) <= packets[-1][0] < end


def test_audio_can_be_left_out_or_refused(tmp_path):
    write_clip(tmp_path / "in.mp4", audio="aac")
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", audio=False)
    assert not open_media(tmp_path / "out.mp4").has_audio
    with pytest.raises(UserError, match="cannot hold the source's aac audio"):
        copy(tmp_path / "in.mp4", tmp_path / "out.webm")
    assert not list(tmp_path.glob("*out.webm")) and not list(tmp_path.glob(".*"))


def test_audio_and_video_are_interleaved(tmp_path):
    write_clip(tmp_path / "in.mp4", frames=96, audio="aac")
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    longest = max(len(run) for run in "".join(kind[0] for kind in kinds).split("v"))
    assert longest < 40


def test_a_second_of_silence_without_a_source(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", height=48, width=64, rate=Fraction(12)) as out:
        for index in range(12):
            out.write(picture(index))
    assert not open_media(tmp_path / "a.mp4").has_audio
