"""The packet scan: truncation is found before decoding, whatever the container."""

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import NTSC_FILM, field_coded_h264, picture, trimmed, write_clip, write_tone

from skipsr_jax.errors import UserError
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.scan import scan_video


def faststart(source, target):
    """The same clip with its index in front, so that a cut loses media data, not the index."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options={"movflags": "faststart"}) as write,
    ):
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.size:
                packet.stream = copy
                write.mux(packet)
    return target


LISTS = {
    "ffconcat version 1.0\nfile real.mp4\n": ".mp4",
    "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nreal.mp4\n#EXT-X-ENDLIST\n": ".ts",
    "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:real.mp4\n#EXT-X-ENDLIST\n": ".mkv",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n": ".mp4",
    "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>"
    "<Period><AdaptationSet><Representation id='a' bandwidth='1'><BaseURL>real.mp4</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>": ".mp4",
}


@pytest.mark.parametrize("text", LISTS)
def test_a_list_of_other_files_is_no_video(tmp_path, text):
    """Whatever it is called, and in memory too; the file that it names is never opened."""
    write_clip(tmp_path / "real.mp4")
    disguised = tmp_path / f"film{LISTS[text]}"
    disguised.write_text(text)
    for data in (None, disguised.read_bytes()):
        with pytest.raises(UserError, match=r"film.* is a list of other files .*not read"):
            scan_video(disguised, data)


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.9, 0.999])
def test_truncated_mp4(tmp_path, kept):
    clip = faststart(write_clip(tmp_path / "a.mp4", frames=60), tmp_path / "b.mp4")
    assert scan_video(clip).num_frames == 60
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="truncated"):
        scan_video(clip)


def test_truncated_matroska(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", frames=60)
    assert scan_video(clip).num_frames == 60
    assert scan_video(clip).timing.rate == NTSC_FILM
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated"):
        scan_video(clip)


def test_no_video_and_no_frame(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        write_tone(container, stream, 0.2)
    with pytest.raises(UserError, match="no video stream"):
        scan_video(tmp_path / "sound.mp4")
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"none\.mp4"):
        scan_video(tmp_path / "none.mp4")


def test_vp8_frames_that_are_never_shown_are_not_counted(tmp_path):
    clip = write_clip(tmp_path / "a.webm", frames=40, codec="libvpx")
    with av.open(str(clip)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert scan_video(clip).num_frames == shown == 40


def test_frames_before_an_edit_list_are_not_counted(tmp_path):
    """As clips are cut without re-encoding: packets from a key frame on, shown from later on."""
    trimmed(write_clip(tmp_path / "whole.mp4", frames=12), tmp_path / "cut.mp4", 3)
    media = open_media(tmp_path / "cut.mp4")
    frames = list(media.frames())
    assert media.num_frames == len(frames) == 9
    assert abs(frames[0].astype(float) - picture(3)).mean() < 2


def remuxed_fields(path, frames=8, stamped="each"):
    """`field_coded_h264` in a container, a field in each packet, at 25 frames per second.

    ``stamped``: "each" field has a time stamp; or "pairs", both fields in one packet of a stream.
    """
    units = field_coded_h264(frames)
    raw = path.with_suffix(".264")
    raw.write_bytes(b"".join(units))
    if stamped == "pairs":
        units = [top + bottom for top, bottom in zip(units[::2], units[1::2], strict=True)]
    tick = 3600 if stamped == "pairs" else 1800
    with av.open(str(raw)) as read, av.open(str(path), "w") as write:
        copy = write.add_stream_from_template(read.streams.video[0])
        for number, unit in enumerate(units):
            packet = av.Packet(unit)
            packet.pts = packet.dts = number * tick
            packet.duration, packet.time_base, packet.stream = tick, Fraction(1, 90000), copy
            packet.is_keyframe = number % 2 == 0 or stamped == "pairs"
            write.mux(packet)
    return path


@pytest.mark.parametrize("stamped", ["each", "pairs"])
@pytest.mark.parametrize("extension", [".ts", ".mp4", ".mkv", ".mov"])
def test_two_fields_are_one_frame(tmp_path, extension, stamped):
    media = open_media(remuxed_fields(tmp_path / f"a{extension}", stamped=stamped))
    frames = list(media.frames())
    assert len(frames) == media.num_frames == 8
    assert float(media.timing.duration) == pytest.approx(8 / 25, abs=0.02)
    assert media.notes and frames[3].shape == (32, 32, 3)


def avi_with_empty_frames(path, drop, codec="mpeg4"):
    """Ten places at 10 frames per second; those in ``drop`` hold no data and repeat the picture."""
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for index in range(10):
            if index not in drop:
                frame = av.VideoFrame.from_ndarray(picture(index))
                frame.pts = index
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_empty_frames_of_avi_repeat_the_picture(tmp_path, codec):
    media = open_media(avi_with_empty_frames(tmp_path / "a.avi", {3, 4, 7, 8}, codec))
    assert media.num_frames == len(list(media.frames())) == 6
    assert media.times == tuple(Fraction(place, 10) for place in (0, 1, 2, 5, 6, 9))
    assert media.timing.duration == 1


def test_truncated_avi(tmp_path):
    clip = write_clip(tmp_path / "a.avi", frames=60, codec="mpeg4")
    assert scan_video(clip).num_frames == 60
    clip.write_bytes(clip.read_bytes()[:-9000])
    with pytest.raises(UserError, match="truncated"):
        scan_video(clip)


def test_packets_before_the_first_key_frame_are_no_frames(tmp_path):
    """As television recordings begin: in the middle of a group of pictures."""
    source = write_clip(tmp_path / "whole.ts", frames=24, rate=Fraction(25), audio="aac",
                        options={"g": "8", "bf": "2", "sc_threshold": "0"})  # fmt: skip
    with av.open(str(source)) as read, av.open(str(tmp_path / "late.ts"), "w") as write:
        copies = {s.index: write.add_stream_from_template(s) for s in read.streams}
        first = 0
        for packet in read.demux():
            if packet.size:
                if packet.stream.type == "video" and (first := first + 1) <= 3:
                    continue
                packet.stream = copies[packet.stream.index]
                write.mux(packet)
    media = open_media(tmp_path / "late.ts")
    frames = list(media.frames())
    assert len(frames) == media.num_frames == 16
    assert abs(frames[0].astype(float) - picture(8)).mean() < 2


def test_a_wrong_count_costs_no_frame(tmp_path, caplog):
    """What is decoded is kept, and the log says what was expected."""
    media = open_media(write_clip(tmp_path / "a.mp4", frames=12))
    few = dataclasses.replace(media.video, scan=media.video.scan.without(0))
    more = dataclasses.replace(few.scan.timing, ticks=np.arange(14) * 1001)
    few = dataclasses.replace(few, scan=dataclasses.replace(few.scan, timing=more))
    assert len(list(few.frames())) == 12
    assert "12 frames were decoded where 14 were expected" in caplog.text


def test_a_codec_that_nobody_knows(tmp_path):
    clip = write_clip(tmp_path / "a.mp4")
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(UserError, match="codec that FFmpeg does not know"):
        scan_video(clip)
