"""What becomes of each track of a file, decided before any work."""

from fractions import Fraction

import av
import pytest
from media_clips import write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.media import tracks
from skipsr_jax.media.tracks import plan_tracks


def hows(path, extension, **options):
    return [(track.kind, track.how) for track in plan_tracks(path, extension, **options)]


def test_a_track_is_copied_or_converted_or_left_out(tmp_path):
    path = write_clip(tmp_path / "in.mkv", audio="ac3")
    assert hows(path, ".mp4") == hows(path, ".mkv") == [("audio", "template")]
    assert hows(path, ".webm") == [("audio", "convert")]
    assert hows(path, ".webm", audio="none") == []


def test_audio_that_cannot_be_kept_is_found_before_any_work(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "in.mkv", audio="ac3")
    monkeypatch.setattr(tracks, "_handling", lambda *_: tracks._Handling("leave"))
    with pytest.raises(UserError, match=r"audio track 1 \(ac3\).*--config.output.audio=none"):
        plan_tracks(path, ".mp4")


def test_a_second_camera_and_a_cover_are_named(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        streams = [container.add_stream(codec, rate=25) for codec in ("libx264", "libx264")]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            for stream in streams:
                container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        for stream in streams:
            container.mux(stream.encode(None))
    (other,) = plan_tracks(tmp_path / "in.mkv", ".mkv")
    assert (other.how, other.name) == ("leave", "video track 2")
    for extension in (".mkv", ".mp4"):  # which could hold it
        (note,) = tracks.notes_of(tmp_path / "in.mkv", [other], extension)
        assert note == "left out, because one video track is upscaled: video track 2"


def test_the_track_that_quicktime_has_of_the_chapters_is_no_loss(tmp_path):
    copy = write_clip(tmp_path / "in.mp4", rate=Fraction(25))
    with av.open(str(copy)) as read, av.open(str(tmp_path / "chapters.mp4"), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        write.set_chapters(
            [{"id": number, "start": 240 * number, "end": 240 * number + 240,
              "time_base": Fraction(1, 1000), "metadata": {"title": f"Part {number}"}}
             for number in range(2)]
        )  # fmt: skip
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = stream
                write.mux(packet)
    with av.open(str(tmp_path / "chapters.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    assert plan_tracks(tmp_path / "chapters.mp4", ".mkv") == ()


def test_tta_is_not_copied(tmp_path):
    """FFmpeg reads its last second wrong from Matroska."""
    path = write_clip(tmp_path / "in.mkv", audio="tta", rate=Fraction(25))
    (track,) = plan_tracks(path, ".mkv")
    assert (track.how, track.encoder) == ("convert", "flac")


def reason_of(path, extension):
    """The line that is said of the one audio track, behind its colon."""
    (note,) = tracks.notes_of(path, plan_tracks(path, extension), extension)
    assert note.startswith("audio track 1 (") and "is converted to" in note
    return note.split(": ")[1]


def test_the_reason_of_a_conversion_is_the_true_one(tmp_path):
    path = write_clip(tmp_path / "in.mkv", audio="tta", rate=Fraction(25))
    assert reason_of(path, ".mkv") == "FFmpeg reads its last second wrong from .mkv"
    assert reason_of(path, ".mp4") == ".mp4 cannot hold it"
    path = write_clip(tmp_path / "in.mov", audio="pcm_s24le", rate=Fraction(25))
    assert reason_of(path, ".mp4") == "only new players read it right from .mp4"


def test_damaged_audio_is_called_that(tmp_path):
    """The second packet of the transport stream that has sound is overwritten."""
    path = write_clip(tmp_path / "in.ts", frames=25, audio="aac", rate=Fraction(25))
    data, number = bytearray(path.read_bytes()), 0x101
    at = [begin for begin in range(0, len(data), 188)
          if (data[begin + 1] & 31) << 8 | data[begin + 2] == number]  # fmt: skip
    data[at[1] + 4 : at[1] + 188] = bytes(184)
    path.write_bytes(data)
    assert reason_of(path, ".mkv") == reason_of(path, ".mp4") == "it is damaged"


def test_audio_that_begins_with_repeated_time_stamps_is_called_that(tmp_path):
    path = write_clip(tmp_path / "in.mkv", audio="aac", rate=Fraction(25))
    with av.open(str(path)) as read, av.open(str(tmp_path / "twice.mkv"), "w") as write:
        copies = {s.index: write.add_stream_from_template(s) for s in read.streams}
        first = None
        for packet in read.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    first = packet.pts if first is None else first
                    packet.pts = packet.dts = first if packet.pts < first + 30 else packet.pts
                packet.stream = copies[packet.stream.index]
                write.mux(packet)
    assert reason_of(tmp_path / "twice.mkv", ".mp4") == "its time stamps do not rise"
    assert hows(tmp_path / "twice.mkv", ".mkv") == [("audio", "template")]
