"""Files that are cut are found by their containers' sizes; whole files never are."""

import pathlib
from fractions import Fraction

import pytest
from media_clips import picture, write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.early_end import early_end
from skipsr_jax.media.reader import open_media

CODECS = {
    "avi": "mpeg4",
    "wmv": "wmv2",
    "mpg": "mpeg2video",
    "flv": "flv1",
    "mxf": "mpeg2video",
    "y4m": "rawvideo",
}
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"


def make(path):
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(picture(index)) for index in range(12)]
        first.save(path, save_all=True, append_images=rest, duration=50)
        return path
    muxer = {"mpegts_m2ts_mode": "1"} if path.suffix == ".m2ts" else {}
    rate = {} if path.suffix == ".flv" else {"rate": Fraction(25)}
    codec = CODECS.get(path.suffix[1:], "libx264")
    sound = {".flv": "mp3", ".ts": "aac", ".m2ts": "aac"}.get(path.suffix)
    return write_clip(path, frames=12, codec=codec, audio=sound, muxer=muxer, **rate)


@pytest.mark.parametrize("kind", ["ts", "m2ts", "mpg", "flv", "wmv", "gif", "mxf", "y4m"])
def test_a_cut_file_is_refused_and_what_is_there_is_kept_on_demand(tmp_path, kind, caplog):
    clip = make(tmp_path / f"clip.{kind}")
    whole = open_media(clip)
    assert len(list(whole.frames())) == whole.num_frames == 12
    assert not whole.notes and not caplog.messages
    data = clip.read_bytes()
    for share in (0.97, 0.813, 0.6011):
        clip.write_bytes(data[: int(len(data) * share) | 1])  # no border of packets is odd
        with pytest.raises(UserError, match=r"truncated: .*input\.truncated=keep"):
            open_media(clip)
        kept = open_media(clip, truncated="keep")
        assert any("ends early" in note for note in kept.notes)
        frames = list(kept.frames())
        assert (6 if share > 0.9 else 1) <= len(frames) <= 12


@pytest.mark.parametrize(
    ("flags", "share", "box", "kept_frames"),
    [
        ("", 0.99, "moov", 12),
        ("frag_keyframe+empty_moov", 0.99, "mfra", 12),
        ("frag_keyframe+empty_moov", 0.95, "mdat", 6),
    ],
)
def test_a_cut_box_of_mp4_is_said(tmp_path, flags, share, box, kept_frames):
    clip = tmp_path / "clip.mp4"
    write_clip(clip, frames=12, codec="libx264", muxer={"movflags": flags} if flags else {})
    data = clip.read_bytes()
    assert early_end(clip, data, MP4) == ""
    assert early_end(clip, data + b"trailing bytes", MP4) == ""
    clip.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=f"truncated: its last box, {box}, has .*truncated=keep"):
        open_media(clip)
    kept = open_media(clip, truncated="keep")
    assert any("ends early" in note for note in kept.notes)
    assert kept_frames <= len(list(kept.frames())) <= 12


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "webm", "ts", "avi"])
def test_a_file_that_is_cut_within_its_head_is_said_to_end_early(tmp_path, kind):
    clip = tmp_path / f"clip.{kind}"
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(kind, "libx264")
    write_clip(clip, frames=3, codec=codec)
    data = clip.read_bytes()
    start, end = {"ts": (400, 740)}.get(kind, (60, 460))  # three packets show the size of all
    if kind in ("mp4", "mov"):
        start, end = data.find(b"moov"), len(data)
    lines = set()
    for share in (0.03, 0.2, 0.4, 0.6, 0.8):
        clip.write_bytes(data[: int(start + share * (end - start)) | 1])
        for truncated in ("refuse", "keep"):  # there is nothing that could be kept
            with pytest.raises(UserError) as refused:
                open_media(clip, truncated=truncated)
            lines.add(str(refused.value))
    assert len(lines) == 5
    assert all(f"{clip} is truncated: its " in line and "\n" not in line for line in lines)


def test_the_size_of_a_matroska_segment(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", frames=12)
    data = clip.read_bytes()
    assert early_end(clip, data, "matroska,webm") == early_end(clip, data + b"more") == ""
    assert "its last element has" in early_end(clip, data[:-1])
    segment = data.find(b"\x18\x53\x80\x67")
    unknown = data[: segment + 4] + b"\x01" + b"\xff" * 7 + data[segment + 12 :]
    assert early_end(clip, unknown[:-100]) == ""
    clip.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"truncated: its last element .*truncated=keep"):
        open_media(clip)
    assert len(list(open_media(clip, truncated="keep").frames())) == 12


def test_boxes_of_64_bits_and_without_an_end():
    name = pathlib.Path("clip.mp4")
    wide = b"\0\0\0\1mdat" + (24).to_bytes(8, "big") + bytes(8)
    assert early_end(name, wide, MP4) == ""
    assert early_end(name, wide[:-1], MP4) == "its last box, mdat, has 23 of 24 bytes"
    assert early_end(name, b"\0\0\0\0mdat" + bytes(99), MP4) == ""


def test_other_formats_and_bytes_in_memory(tmp_path):
    data = make(tmp_path / "clip.ts").read_bytes()
    name = pathlib.Path("clip.ts")
    assert early_end(name, data, "mpegts") == ""
    assert early_end(name, data[:-1], "mpegts") == "its last packet has 187 of 188 bytes"
    assert early_end(name, data[:-1], "matroska,webm") == ""
    assert early_end(name, data[1:], "mpegts") == ""  # joined in the middle of a packet


@pytest.mark.parametrize(
    "container", ["mpegts", "mpeg", "flv", "asf", "gif", "avi", "mxf", "y4m", "mp4"]
)
def test_damage_is_no_end(container):
    name = {"y4m": "yuv4mpegpipe", "mp4": MP4}.get(container, container)
    for data in (b"", b"\0", bytes(4096), b"\xff" * 4096, bytes(range(256)) * 16):
        assert isinstance(early_end(pathlib.Path("x"), data, name), str)
