"""Tracks beside the video: the same packets, in sync, cut to what was upscaled; or converted."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import NTSC_FILM, film, picture, write_clip

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


def test_audio_can_be_left_out(tmp_path):
    write_clip(tmp_path / "in.mp4", audio="aac")
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", audio="none")
    assert not open_media(tmp_path / "out.mp4").has_audio
    assert not list(tmp_path.glob(".*"))


def decoded_audio(path):
    """(codec, rate, when it begins after the first picture, its samples) of the audio track."""
    start = open_media(path).timing.start
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        codec, rate = stream.codec_context.codec.canonical_name, stream.rate
        frames = list(container.decode(stream))
    begins = float(frames[0].pts * frames[0].time_base - start)
    return codec, rate, begins, sum(frame.samples for frame in frames)


@pytest.mark.parametrize(
    ("source", "codec", "target", "becomes"),
    [
        ("in.mkv", "flac", "out.mov", "alac"),
        ("in.mkv", "pcm_s16le", "out.webm", "opus"),
        ("in.avi", "adpcm_ms", "out.mp4", "aac"),
        ("in.avi", "adpcm_ms", "out.mkv", "adpcm_ms"),  # by its parameters alone
        ("in.wmv", "wmav2", "out.mkv", "wmav2"),
        ("in.wmv", "wmav2", "out.mp4", "aac"),
        ("in.m2ts", "pcm_bluray", "out.mkv", "flac"),
        ("in.mov", "pcm_s24le", "out.mp4", "flac"),
        ("in.avi", "pcm_s16le", "out.mp4", "flac"),  # AVI states no channel layout, which MP4 needs
        ("in.ts", "mp2", "out.mp4", "mp3"),  # copied: one code stands for all layers of MPEG audio
    ],
)
def test_what_a_container_cannot_hold_is_converted(tmp_path, source, codec, target, becomes):
    video = {".wmv": "wmv2", ".m2ts": "mpeg2video"}.get(source[2:], "libx264")
    write_clip(tmp_path / source, frames=50, audio=codec, codec=video, rate=Fraction(25))
    copy(tmp_path / source, tmp_path / target)
    _, rate, begins, samples = decoded_audio(tmp_path / source)
    codec, new_rate, new_begins, new_samples = decoded_audio(tmp_path / target)
    assert codec == becomes
    assert abs(new_samples / new_rate - samples / rate) < 0.1 and abs(new_begins - begins) < 0.06


def phone_clip(path):
    """Two seconds with AMR, in packets of 20 ms."""
    return write_clip(path, frames=50, codec="mpeg4", audio="libopencore_amrnb", audio_rate=8000,
                      layout="mono", rate=Fraction(25))  # fmt: skip


def test_amr_of_phones_is_copied(tmp_path):
    """Matroska holds it under another code than 3GP, which PyAV's template refuses."""
    source = phone_clip(tmp_path / "in.3gp")
    copy(source, tmp_path / "out.mkv")
    before, after = audio_packets(source), audio_packets(tmp_path / "out.mkv")
    assert [data for _, data in after] == [data for _, data in before]
    assert abs(after[0][0] - before[0][0]) < 0.002
    assert decoded_audio(tmp_path / "out.mkv")[0] == "amr_nb"


def test_converted_audio_of_a_low_rate_begins_with_its_first_sample(tmp_path):
    """A block of the encoder is longer there than what counts as a gap."""
    source = phone_clip(tmp_path / "in.3gp")
    copy(source, tmp_path / "out.mp4")
    codec, rate, begins, samples = decoded_audio(tmp_path / "out.mp4")
    _, _, wanted, count = decoded_audio(source)
    assert (codec, rate) == ("aac", 8000)
    assert abs(begins - wanted) < 0.002 and abs(samples - count) <= 1024


@pytest.mark.parametrize(("rate", "layout"), [(32000, "stereo"), (48000, "mono")])
def test_converted_audio_may_change_its_form_midway(tmp_path, rate, layout):
    """As of a channel between two programmes."""
    parts = [write_clip(tmp_path / f"{each[0]}.ts", frames=25, codec="mpeg2video", audio="mp2",
                        audio_rate=each[0], layout=each[1], rate=Fraction(25))
             for each in ((44100, "stereo"), (rate, layout))]  # fmt: skip
    source = tmp_path / "joined.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    copy(source, tmp_path / "out.webm")
    codec, rate, begins, samples = decoded_audio(tmp_path / "out.webm")
    assert codec == "opus" and abs(begins) < 0.06 and abs(samples / rate - 2) < 0.15


def test_a_gap_in_converted_audio_stays(tmp_path):
    source = write_clip(tmp_path / "in.mkv", frames=50, audio="pcm_s16le", rate=Fraction(25))
    with (
        av.open(str(source)) as read,
        av.open(str(tmp_path / "gap.mkv"), "w") as write,
    ):
        copies = {s.index: write.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.size and not (packet.stream.index and 0.5 < packet.pts / 1000 < 1.0):
                packet.stream = copies[packet.stream.index]
                write.mux(packet)
    copy(tmp_path / "gap.mkv", tmp_path / "out.webm")
    with av.open(str(tmp_path / "out.webm")) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(audio=0)]
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert 0.4 < max(steps) < 0.6 and abs(times[steps.index(max(steps)) + 1] - 1.0) < 0.06


def test_audio_whose_time_stamps_repeat_is_repaired(tmp_path):
    """As some recorders write: two packets with one time stamp, and a gap behind them."""
    write_clip(tmp_path / "in.mkv", frames=40, audio="aac")
    with (
        av.open(str(tmp_path / "in.mkv")) as read,
        av.open(str(tmp_path / "twice.mkv"), "w") as write,
    ):
        copies = {s.index: write.add_stream_from_template(s) for s in read.streams}
        numbers = dict.fromkeys(copies, 0)
        for packet in read.demux():
            if packet.size:
                index = packet.stream.index
                if index and numbers[index] in (8, 20):
                    packet.pts = packet.dts = packet.pts - packet.duration
                numbers[index] += 1
                packet.stream = copies[index]
                write.mux(packet)
    for name in ("out.mp4", "out.mkv"):
        copy(tmp_path / "twice.mkv", tmp_path / name)
        before, after = audio_packets(tmp_path / "in.mkv"), audio_packets(tmp_path / name)
        assert [data for _, data in after] == [data for _, data in before]
        for (was, _), (now, _) in zip(before, after, strict=True):
            assert abs(was - now) <= Fraction(3, 1000)


def test_the_head_of_the_audio_is_kept_where_the_video_starts_late(tmp_path):
    source = write_clip(tmp_path / "in.mkv", frames=12, audio="flac", rate=Fraction(25), late=0.5)
    for name in ("out.mp4", "out.mkv"):
        copy(source, tmp_path / name)
        before, after = audio_packets(source), audio_packets(tmp_path / name)
        assert [data for _, data in after] == [data for _, data in before]
        assert abs(before[0][0] - after[0][0]) <= Fraction(2, 1000) and after[0][0] < -0.47


def contents(path):
    with av.open(str(path)) as container:
        tracks = [
            (
                stream.type,
                stream.codec_context.name if stream.codec_context else "",
                stream.metadata.get("language", ""),
                stream.metadata.get("title", ""),
                int(stream.disposition),
            )
            for stream in container.streams
            if stream.type != "video"
        ]
        words = [bytes(p) for p in container.demux(*container.streams.subtitles) if p.size]
        chapters = [
            (float(c["start"] * c["time_base"]), c["metadata"]["title"])
            for c in container.chapters()
        ]
        tags = {key.lower(): value for key, value in container.metadata.items()}
        files = [(s.metadata["filename"], s.data) for s in container.streams.attachments]
    return tracks, words, chapters, tags, files


def test_everything_that_a_film_has_is_carried_over(tmp_path):
    source = film(tmp_path / "film.mkv")
    copy(source, tmp_path / "out.mkv")
    (tracks, words, chapters, tags, files), new = contents(source), contents(tmp_path / "out.mkv")
    assert new[0] == tracks and new[1] == words and new[2] == chapters and new[4] == files
    assert [t[2:] for t in tracks[:3]] == [
        ("eng", "Main", 0), ("jpn", "Commentary", 1), ("ger", "Full", 64),
    ]  # fmt: skip
    assert {key: new[3][key] for key in ("title", "artist", "mood")} == {
        "title": "My Film", "artist": "Me", "mood": "calm",
    }  # fmt: skip
    assert tags["title"] == "My Film"


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".webm"])
def test_what_is_left_out_is_named(tmp_path, extension):
    media = open_media(film(tmp_path / "film.mkv"))
    writer = VideoWriter(tmp_path / f"out{extension}", height=48, width=64, source=media)
    (line,) = [note for note in writer.notes if "left out" in note]
    assert "subtitle track 1 (subrip, ger)" in line and "attachment font.ttf" in line
    assert ("MOOD" in line) == (extension != ".webm")
    with writer:
        for frame in media.frames():
            writer.write(frame)
    tracks, _, chapters, tags, _ = contents(tmp_path / f"out{extension}")
    sounds = [track for track in tracks if track[0] == "audio"]
    assert [track[2] for track in sounds] == ["eng", "jpn"]
    assert [track[4] for track in sounds] == [0, 1]
    assert tags["title"] == "My Film"
    assert chapters == [(0.0, "One"), (0.4, "Two")]
    with av.open(str(tmp_path / f"out{extension}")) as container:
        names = [s.metadata.get("handler_name") or s.metadata.get("title")
                 for s in container.streams.audio]  # fmt: skip
    assert names == ["Main", "Commentary"]


def write_part(path, media):
    with VideoWriter(path, height=48, width=64, source=media) as writer:
        for frame in media.frames():
            writer.write(frame)


def test_tracks_of_a_part_begin_with_its_first_frame(tmp_path):
    """Frame 4 of 25 a second is shown at 0.16 s; a subtitle that has begun by then stays."""
    source = film(tmp_path / "film.mkv")
    media = open_media(source)
    write_part(tmp_path / "out.mkv", media.part(4, 8))
    _, words, chapters, _, _ = contents(tmp_path / "out.mkv")
    assert words == [b"Hello"] and chapters == [(0.0, "One"), (0.24, "Two")]
    before, after = audio_packets(source), audio_packets(tmp_path / "out.mkv")
    kept = [(at - Fraction(4, 25), data) for at, data in before if Fraction(4, 25) <= at]
    assert [data for _, data in after] == [data for _, data in kept[: len(after)]]
    assert all(abs(was - now) <= Fraction(2, 1000)
               for (was, _), (now, _) in zip(kept, after, strict=False))  # fmt: skip
    assert after[-1][0] < Fraction(8, 25) <= after[-1][0] + Fraction(1, 20)
    written = open_media(tmp_path / "out.mkv")
    assert written.num_frames == 8 and written.timing.start == 0
    first = next(written.frames()).astype(int)
    errors = [abs(frame.astype(int) - first).mean() for frame in media.frames()]
    assert errors.index(min(errors)) == 4


def test_audio_of_an_avi_is_cut_without_being_moved(tmp_path):
    """A tick of such a track is as long as a packet, so that the cut lies between two of them."""
    source = write_clip(tmp_path / "in.avi", frames=25, codec="mpeg4", audio="ac3",
                        rate=Fraction(25))  # fmt: skip
    media = open_media(source).part(2, 20)
    for name in ("out.mp4", "out.mkv"):
        write_part(tmp_path / name, media)
        before, after = audio_packets(source), audio_packets(tmp_path / name)
        kept = [(at - Fraction(2, 25), data) for at, data in before if at >= Fraction(2, 25)]
        kept = kept[: len(after)]
        assert [data for _, data in after] == [data for _, data in kept] and len(after) > 20
        assert all(abs(was - now) <= Fraction(1, 1000)
                   for (was, _), (now, _) in zip(kept, after, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", ["out.mkv", "out.webm", "out.mov"])
def test_a_cut_within_a_long_packet_loses_no_sound(tmp_path, name):
    """As old AVI files have them: half a second of PCM each. The sound is a ramp."""
    path, rate = tmp_path / "in.mkv", 8000
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for index in range(50):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index))))
        container.mux(video.encode(None))
        for start in range(0, 2 * rate, rate // 2):
            ramp = np.arange(start, start + rate // 2, dtype=np.int16)[None]
            frame = av.AudioFrame.from_ndarray(ramp, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(sound.encode(frame))
    write_part(tmp_path / name, open_media(path).part(9, 30))  # from 0.36 s on
    codec, _, begins, samples = decoded_audio(tmp_path / name)
    assert codec == {"out.webm": "opus"}.get(name, "pcm_s16le") and abs(begins) < 0.008
    if codec == "opus":
        assert samples > 48000 * 1.1
        return
    with av.open(str(tmp_path / name)) as container:
        first = next(container.decode(audio=0)).to_ndarray()[0]
    assert list(first[:3]) == [2880, 2881, 2882]


def test_a_cut_within_a_packet_that_does_not_say_its_length_loses_no_sound(tmp_path):
    source = write_clip(tmp_path / "in.flv", frames=50, codec="flv1", audio="adpcm_swf",
                        audio_rate=11025, layout="mono", rate=Fraction(25))  # fmt: skip
    write_part(tmp_path / "out.mkv", open_media(source).part(9, 30))
    codec, rate, begins, samples = decoded_audio(tmp_path / "out.mkv")
    assert codec == "aac" and abs(begins) < 0.003 and samples / rate > 1.19


def test_chapters_and_subtitles_end_with_the_last_frame_written(tmp_path):
    write_part(tmp_path / "out.mkv", open_media(film(tmp_path / "film.mkv")).part(0, 8))
    _, words, chapters, _, _ = contents(tmp_path / "out.mkv")
    assert words == [b"Hello"] and chapters == [(0.0, "One")]


@pytest.mark.parametrize(("extension", "codec"), [(".mkv", "subrip"), (".mp4", "mov_text")])
@pytest.mark.parametrize(
    ("first", "count", "kept"),
    [(0, 10, [(0, 200), (200, 200)]), (6, 2, [(0, 80)]), (0, 3, [(0, 120)]), (5, 5, [(0, 200)])],
)
def test_a_subtitle_is_shortened_to_the_last_frame(tmp_path, extension, codec, first, count, kept):
    """Of ten frames of 40 ms: one to 0.2 s, one from there to 5 s, and one from 0.45 s on."""
    source, target = tmp_path / f"in{extension}", tmp_path / f"out{extension}"
    with av.open(str(source), "w") as container:
        video, text = container.add_stream("libx264", rate=25), container.add_mux_stream(codec)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        text.time_base = Fraction(1, 1000)
        for index in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index))))
        container.mux(video.encode(None))
        for begins, length in ((0, 200), (200, 4800), (450, 100)):
            packet = av.Packet(b"\0\2Hi" if codec == "mov_text" else b"Hi")
            packet.pts = packet.dts = begins
            packet.duration, packet.time_base, packet.stream = length, text.time_base, text
            container.mux(packet)
    write_part(target, open_media(source).part(first, count))
    with av.open(str(target)) as container:
        found = [(round(1000 * p.pts * p.time_base), round(1000 * p.duration * p.time_base))
                 for p in container.demux(subtitles=0) if b"Hi" in bytes(p)]  # fmt: skip
        assert abs(container.duration - 40000 * count) < 2000
    assert found == kept


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
