"""The packet scan: truncation is found before decoding, whatever the container."""

import av
import pytest
from media_clips import NTSC_FILM, picture, write_clip, write_tone

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
    source = write_clip(tmp_path / "whole.mp4", frames=12)
    with av.open(str(source)) as read, av.open(str(tmp_path / "cut.mp4"), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.size:
                packet.pts -= 3 * 1001
                packet.dts -= 3 * 1001
                packet.stream = copy
                write.mux(packet)
    media = open_media(tmp_path / "cut.mp4")
    frames = list(media.frames())
    assert media.num_frames == len(frames) == 9
    assert abs(frames[0].astype(float) - picture(3)).mean() < 2
