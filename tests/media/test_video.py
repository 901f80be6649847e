"""Random access: a range of frames is that range of all frames, whatever the container."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import picture, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.media import video as video_module
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.scan import decoded
from skipsr_jax.media.video import Video, open_video

GROUPS = {"g": "8", "bf": "2", "keyint_min": "8", "sc_threshold": "0"}
CLIPS = {
    "a.mp4": {},
    "b.mkv": {"rotation": 90},
    "c.mov": {"codec": "libx265", "pixel_format": "yuv420p10le", "options": {
        "x265-params": "log-level=none:keyint=8:min-keyint=8:bframes=2:open-gop=1"}},
    "d.ts": {},
    "e.avi": {"codec": "mpeg4", "options": {"g": "8", "bf": "0"}},
    "k.avi": {"codec": "mpeg4", "options": {"g": "8", "bf": "2"}},
    "l.avi": {},  # H.264, in which AVI has no time stamps to speak of
    "m.mkv": {"options": {"g": "8", "bf": "2", "flags": "+ildct+ilme"}},  # interlaced
    "n.ts": {"codec": "mpeg2video", "options": {"g": "8", "bf": "2", "flags": "+ildct+ilme"}},
    "f.mkv": {"codec": "mpeg2video", "options": {"g": "8", "bf": "2"}},  # open groups of pictures
    "g.mpg": {"codec": "mpeg2video", "options": {"g": "8", "bf": "2"}, "rate": Fraction(25)},
    "h.webm": {"codec": "libvpx-vp9", "options": {"g": "8", "b": "1M"}},
    "i.y4m": {"codec": "wrapped_avframe"},
    "j.mp4": {"ticks": list(itertools.accumulate([30, 33, 57, 10, 60] * 8))[:40],
              "time_base": Fraction(1, 600), "rate": Fraction(20)},
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_a_range_equals_that_range_of_all_frames(tmp_path, name):
    path = write_clip(tmp_path / name, frames=40, **{"options": GROUPS} | CLIPS[name])
    video = open_video(path)
    everything = list(video.frames())
    assert len(everything) == video.num_frames == 40
    in_memory = open_video(tmp_path / "absent", path.read_bytes())
    for start, stop in ((0, 40), (0, 3), (7, 12), (16, 17), (21, 30), (39, 40), (5, 5)):
        want = everything[start:stop]
        for one in (video, in_memory):
            got = list(one.frames(start, stop))
            assert len(got) == stop - start
            assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), (start, stop)


def test_a_range_of_a_long_file_decodes_from_the_key_frame_before_it(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", frames=60, options=GROUPS)
    video, decoded = open_video(path), []
    whole = video_module.decoded

    def counted(*args):
        for frame in whole(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_module, "decoded", counted)
    assert len(list(video.frames(50, 53))) == 3
    assert len(decoded) <= 8


def test_an_earlier_key_frame_serves_where_the_container_does_not_find_one(tmp_path, monkeypatch):
    video = open_video(write_clip(tmp_path / "a.mp4", frames=40, options=GROUPS))
    want, asked = list(video.frames())[35:38], []
    found = Video._packets_from

    def only_the_third(self, container, stream, tick):
        asked.append(tick)
        return found(self, container, stream, tick) if len(asked) == 3 else iter(())

    monkeypatch.setattr(Video, "_packets_from", only_the_third)
    got = list(video.frames(35, 38))
    assert asked == video.scan.key_ticks[[4, 3, 1]].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def write_noise(path, height, width, codec, pixel_format, rotation=0, color_range=1):
    """Two frames of noise, which show every pixel that a conversion reads."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        stream.codec_context.color_range = color_range
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(2):
            rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)
            frame.color_range = color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


CROPS = [(0, 0, 48, 64), (0, 0, 7, 9), (13, 21, 16, 16), (20, 31, 28, 33), (47, 63, 1, 1)]
CONVERSIONS = [
    ("a.mp4", 48, 64, "libx264", "yuv420p"),
    *[("a.mp4", 48, 64, "libx264", "yuv420p", degrees) for degrees in (90, -90, 180)],
    ("b.mp4", 48, 64, "libx264", "yuv420p", 0, 2),  # full range
    ("c.mp4", 48, 64, "libx264", "yuv422p10le"),
    ("d.webm", 49, 65, "libvpx-vp9", "yuv420p"),  # odd, and states no chroma site
    ("e.mkv", 48, 64, "libx264rgb", "rgb24"),
]


@pytest.mark.parametrize("clip", CONVERSIONS, ids=lambda clip: "-".join(map(str, clip)))
def test_a_crop_has_the_pixels_of_the_whole_frame(tmp_path, clip):
    video = open_video(write_noise(tmp_path / clip[0], *clip[1:]))
    whole = list(video.frames())[1]
    for top, left, height, width in CROPS:
        if video.height > video.width:
            top, left, height, width = left, top, width, height
        (got,) = video.frames(1, 2, Crop(top, left, height, width))
        np.testing.assert_array_equal(got, whole[top : top + height, left : left + width])
    with pytest.raises(ValueError, match="is wanted"):
        video.frames(0, 1, Crop(0, 0, video.height + 1, 5))


def test_ranges_outside_are_refused(tmp_path):
    video = open_video(write_clip(tmp_path / "a.mp4", frames=4))
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="it has 4"):
            video.frames(start, stop)


def test_a_range_in_a_damaged_file_is_whole_or_refused(tmp_path):
    path = write_clip(tmp_path / "a.mkv", frames=40, height=96, width=128, options=GROUPS)
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 4, len(data) - 200, 30):
        data[place] ^= 0xFF
    try:
        frames = list(open_video(path, bytes(data)).frames(10, 30))
    except UserError as error:
        assert any(word in str(error) for word in ("damaged", "truncated", "decoded"))
    else:
        assert len(frames) == 20


def test_damaged_frames_are_counted(tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", frames=12, options={"g": "4", "bf": "0"})
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for count, (place, size) in enumerate((places[3], places[7]), start=1):  # no other needs these
        data[place + size // 2 : place + size] = bytes(size - size // 2)
        caplog.clear()
        assert len(list(open_video(path, bytes(data)).frames())) == 12
        are = "1 frame is" if count == 1 else "2 frames are"
        assert f": {are} damaged, and shown as mended by the decoder" in caplog.text


def joined(tmp_path, *clips):
    """Clips of one recording as one transport stream; the clock goes on."""
    parts = []
    for number, clip in enumerate(clips):
        path = tmp_path / f"part{number}.ts"
        offset = {"output_ts_offset": str(number * 8 / 25)}
        parts.append(write_clip(path, frames=8, rate=Fraction(25), muxer=offset, **clip))
    whole = tmp_path / "whole.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return whole


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"pixel_format": "yuv420p10le"}, "10 bits instead of 8"),
        ({"pixel_format": "yuv420p10le"}, {}, "8 bits instead of 10"),
        ({}, {"height": 96, "width": 128}, "128x96 instead of 64x48"),
        ({"height": 96, "width": 128}, {"height": 48, "width": 64}, "64x48 instead of 128x96"),
        ({"matrix": 6}, {"matrix": 1}, ""),
        ({"matrix": 1}, {"matrix": 1, "full_range": True}, ""),
        ({}, {"codec": "libx264", "pixel_format": "yuv444p"}, ""),
    ],
)
def test_a_stream_that_changes_midway(tmp_path, first, second, said, caplog):
    video = open_video(joined(tmp_path, first, second))
    frames = list(video.frames())
    assert len(frames) == video.num_frames == 16
    assert {(frame.shape, frame.dtype) for frame in frames} == {(frames[0].shape, frames[0].dtype)}
    size = {key: first[key] for key in ("height", "width") if key in first}
    scale = 1 if frames[0].dtype == np.uint8 else 257
    for index in (0, 7, 8, 15):
        want = picture(index % 8, **size)
        assert abs(frames[index] / scale - want).mean() < 3, index
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_a_wrong_time_stamp_neither_loses_nor_repeats_a_frame(tmp_path, caplog):
    """Frame 8 says that it is shown between frames 10 and 11."""
    write_clip(tmp_path / "a.mkv", frames=20, rate=Fraction(25))
    with av.open(str(tmp_path / "a.mkv")) as read, av.open(str(tmp_path / "b.mkv"), "w") as write:
        copy = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.pts = 437 if packet.pts == 320 else packet.pts
                packet.stream = copy
                write.mux(packet)
    video = open_video(tmp_path / "b.mkv")
    frames = list(video.frames())
    assert len(frames) == video.num_frames == 20 and caplog.text == ""
    for index, frame in enumerate(frames):
        assert abs(frame.astype(float) - picture(index)).mean() < 3


def test_packets_without_data_are_passed_over(tmp_path):
    """Theora has one for each frame that repeats the one before."""
    path = write_clip(tmp_path / "a.avi", frames=4, codec="mpeg4")
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        empty = av.Packet(b"")
        empty.pts = 1
        packets.insert(1, empty)
        assert len(list(decoded(packets, container.streams.video[0].codec_context))) == 4
