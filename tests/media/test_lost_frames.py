"""Frames that damage takes out of a container are said; healthy files of every kind say nothing."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import film, write_clip

from skipsr_jax.media import lost_frames
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.timing import timing_of

PAL = Fraction(25)
CLUSTER, CUES, TS_PACKET = b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", 188
GROUPS = {"g": "5", "bf": "0"}
SHORT_CLUSTERS = {"cluster_time_limit": "150"}  # milliseconds


def clusters(data):
    """Where the clusters of a Matroska file begin."""
    places = [data.find(CLUSTER)]
    while (place := data.find(CLUSTER, places[-1] + 1)) >= 0:
        places.append(place)
    return places


def noise(data, start, count):
    """The bytes with random ones in place of ``count`` from ``start`` on."""
    return data[:start] + np.random.default_rng(0).bytes(count) + data[start + count :]


def said(path, data=None):
    if data is not None:
        path.write_bytes(data)
    return [note for note in open_media(path).notes if "damaged" in note]


@pytest.mark.parametrize("rate", [PAL, Fraction(24000, 1001)])
@pytest.mark.parametrize("filler", ["noise", "zeros"])
def test_a_lost_cluster_is_a_gap(tmp_path, rate, filler):
    clip = write_clip(
        tmp_path / "a.mkv", frames=20, rate=rate, options=GROUPS, muxer=SHORT_CLUSTERS
    )
    assert said(clip) == []
    data = clip.read_bytes()
    places = clusters(data)
    size = places[3] - places[2] - 4
    damaged = noise(data, places[2], size) if filler == "noise" else None
    damaged = damaged or data[: places[2]] + bytes(size) + data[places[2] + size :]
    (note,) = said(clip, damaged)
    media = open_media(clip)
    times = media.times
    (hole,) = np.flatnonzero(np.diff([float(time) for time in times]) > 1.5 / rate)
    missing = 20 - media.num_frames
    assert missing > 1 and len(list(media.frames())) == media.num_frames
    at = f"{float(times[hole] + 1 / rate):.2f}"
    assert note == f"the file is damaged: it has a gap of {missing} frames at {at} s"


@pytest.mark.parametrize("tag", [b"DURATION", b"SOMEWHAT"])
@pytest.mark.parametrize("audio", [None, "aac"])
def test_a_lost_end_is_said_by_the_tag_of_the_video_or_the_file(tmp_path, audio, tag):
    clip = write_clip(
        tmp_path / "a.mkv", frames=20, rate=PAL, audio=audio, options=GROUPS, muxer=SHORT_CLUSTERS
    )
    data = clip.read_bytes().replace(b"DURATION", tag)
    assert said(clip, data) == []
    start = clusters(data)[-3 if audio else -1]
    (note,) = said(clip, noise(data, start, data.rfind(CUES) - start))
    held = open_media(clip).timing.duration
    assert note.startswith("the file is damaged: it holds 0.") and "s that it states" in note
    if tag == b"DURATION":
        assert note.endswith(f" {float(held):.2f} s of the 0.80 s that it states")


def test_a_length_of_the_whole_file_may_be_that_of_another_stream():
    def short(end, all_end, tag="", whole=Fraction(10)):
        return lost_frames.shortfall(whole, tag, PAL, Fraction(end), Fraction(all_end))

    assert short(5, 10) == short(5, 9.97) == ""
    assert short(5, 5, whole=None) == ""
    assert short(5, 9) == "holds 9.00 s of the 10.00 s that it states"
    assert short(5, 10, "00:00:05.040000000") == ""
    assert short(5, 10, "00:00:06.000000000").startswith("holds 5.00 s of the 6.00 s")
    assert short(5, 10, "01:00:06.000000000") == ""  # of another file
    assert short(5, 10, "0:0P:1e999999999") == ""


def without_packets(path, first, count):
    """A transport stream without ``count`` packets of its video from the ``first`` on."""
    data = path.read_bytes()
    packets = [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]
    video = [number for number, each in enumerate(packets) if each[1] & 0x1F == 1 and not each[2]]
    lost = set(video[first : first + count])
    return b"".join(each for number, each in enumerate(packets) if number not in lost)


def noisy_clip(path, frames=12, step=1):
    """A clip of pictures that take many packets, shown every ``step`` frames of 25 a second."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=PAL, options={"g": "3", "bf": "0"})
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 48, "yuv420p", 4_000_000
        for index in range(frames):
            image = noise.integers(0, 256, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = index * step, 1 / PAL
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def test_lost_packets_of_a_transport_stream_are_a_gap(tmp_path):
    clip = noisy_clip(tmp_path / "a.ts")
    assert said(clip) == []
    whole = open_media(clip).num_frames
    packets = clip.stat().st_size // TS_PACKET
    (note,) = said(clip, without_packets(clip, packets // 3, packets // 3))
    missing = whole - open_media(clip).num_frames
    assert missing > 1 and f"it has a gap of {missing} frames at 0." in note


def test_the_counters_of_a_transport_stream_tell_losses_alone(tmp_path):
    for kind, lead in (("ts", 0), ("m2ts", 4)):
        clip = noisy_clip(tmp_path / f"a.{kind}")
        video, data, size = open_media(clip).video, clip.read_bytes(), TS_PACKET + lead
        with av.open(str(clip)) as container:
            program_id = container.streams.video[0].id
        high, low = divmod(program_id, 256)
        ours = [
            at
            for at in range(0, len(data), size)
            if (data[at + lead + 1] & 0x1F, data[at + lead + 2]) == (high, low)
        ]

        def breaks(content, program_id=program_id, timing=video.timing):
            name = pathlib.Path("a.ts")
            return lost_frames.broken_continuity(name, content, program_id, timing)

        at = ours[len(ours) // 2]
        rest = data[at + size :]
        assert breaks(data) == breaks(b"") == breaks(bytes(2000)) == []
        assert breaks(data[: at + size] + data[at:]) == []  # a packet may be sent twice
        (found,) = breaks(data[:at] + rest)
        assert found.first < video.timing.ticks[6] < found.last
        (found,) = breaks(data[:at] + bytes(size) + rest)
        assert found.first < video.timing.ticks[6] < found.last
        assert breaks(data[:at] + rest, program_id + 1) == []
        (found,) = breaks(data[: ours[-2]] + bytes(2 * size))
        assert found.last is None


def test_joined_streams_say_nothing(tmp_path):
    one, two = (noisy_clip(tmp_path / name).read_bytes() for name in ("a.ts", "b.ts"))
    (tmp_path / "joined.ts").write_bytes(one + two)
    assert said(tmp_path / "joined.ts") == []


def test_frames_that_a_recorder_left_out_are_no_damage(tmp_path):
    ticks = [0, 1, 2, 3, 7, 8, 9, 10, 11, 15, 16, 17]
    for kind in ("mkv", "ts", "mp4", "webm"):
        codec = "libvpx-vp9" if kind == "webm" else "libx264"
        clip = write_clip(tmp_path / f"a.{kind}", rate=PAL, ticks=ticks, codec=codec)
        assert said(clip) == []
        # A broken place elsewhere does not make damage of what was left out.
    clip = write_clip(
        tmp_path / "b.mkv", frames=20, rate=PAL, options=GROUPS, muxer=SHORT_CLUSTERS,
        ticks=[*range(3), *range(8, 25)],
    )  # fmt: skip
    data = clip.read_bytes()
    places = clusters(data)
    assert not any("0.12 s" in note for note in said(clip, noise(data, places[3], 100)))


def test_pictures_of_a_variable_rate_say_nothing(tmp_path):
    ticks = [0, 40, 90, 95, 200, 333, 340, 900, 1000, 1500, 3500, 3511]
    for kind in ("mkv", "mp4", "ts"):
        base = Fraction(1, 1000)
        clip = write_clip(tmp_path / f"a.{kind}", rate=PAL, ticks=ticks, time_base=base)
        assert said(clip) == []


def test_other_streams_may_last_longer(tmp_path):
    assert said(film(tmp_path / "film.mkv")) == []
    assert said(write_clip(tmp_path / "a.mkv", rate=PAL, audio="aac", late=0.5)) == []


def test_gaps_are_steps_of_several_frames_of_a_constant_rate():
    def gaps(ticks, rate=PAL, base=Fraction(1, 1000)):
        return lost_frames.gaps_of(timing_of(ticks, base, [rate]))

    assert gaps([0, 40, 80, 200, 240]) == ((120, 2),)
    assert gaps([0, 42, 83, 125, 250, 292, 334], Fraction(24000, 1001)) == ((167, 2),)
    assert gaps([0, 80, 120, 240]) == ((40, 1), (160, 2))  # the stated rate tells what a frame is
    assert gaps([0, 40, 80, 120]) == ()
    assert gaps([0, 33, 83, 116, 166, 200]) == ()  # 24 frames a second shown at 60
    assert gaps([0, 40, 80, 150, 190]) == ()
    assert gaps([0]) == gaps([0, 400]) == ()


def test_the_walk_finds_breaks_alone(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", frames=20, rate=PAL, options=GROUPS, muxer=SHORT_CLUSTERS)
    data, name = clip.read_bytes(), pathlib.Path("a.mkv")
    places = clusters(data)

    def breaks(content):
        return lost_frames.broken_elements(name, content)

    assert breaks(data) == lost_frames.broken_elements(clip, None) == []
    assert breaks(data + b"more") == []
    live = write_clip(tmp_path / "live.mkv", rate=PAL, muxer={"live": "1"})
    assert breaks(live.read_bytes()) == []
    (found,) = breaks(data[: places[1]] + bytes(50) + data[places[1] + 50 :])
    assert found.last is not None and 0 <= found.first < found.last <= 400
    (found,) = breaks(data[: places[-1]] + bytes(50) + data[places[-1] + 50 :])
    assert found.last is None
    for seed in range(20):
        random = np.random.default_rng(seed)
        start, count = random.integers(0, len(data)), random.integers(1, 500)
        assert isinstance(breaks(data[:start] + random.bytes(count) + data[start:]), list)
    assert breaks(b"") == []
