"""Segments that are joined make the file that one encoder after the other would have made."""

import itertools
import pathlib

import av
import pytest
from media_clips import picture, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.media.encoding import Encoding
from skipsr_jax.media.packet_file import read_packets
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.segment_writer import SegmentWriter
from skipsr_jax.media.video_writer import VideoWriter

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("segments") / "clip.mkv", frames=FRAMES, audio="aac")


def segments(clip, output, cuts, folder, **options):
    """Writes the segments between ``cuts``; returns their files of packets."""
    media, files = open_media(clip), []
    pictures = list(media.frames())
    for number, (first, end) in enumerate(itertools.pairwise(cuts)):
        files.append(folder / f"{number}.packets")
        size = {"height": media.height, "width": media.width}
        writer = SegmentWriter(files[-1], first, output, media, **size, **options)
        with writer:
            for frame in pictures[first:end]:
                writer.write(frame)
    assert not output.exists()
    return files


def joined(clip, output, files, **options):
    media = open_media(clip)
    size = {"height": media.height, "width": media.width}
    with VideoWriter(output, source=media, **size, **options) as writer:
        for file in files:
            writer.write_packets(read_packets(file))
    return open_media(output)


def audio_of(path):
    with av.open(str(path)) as container:
        packets = container.demux(audio=0)
        return [(p.pts, p.dts, p.duration, bytes(p)) for p in packets if p.size]


CASES = [
    ("out.mp4", {}),
    ("out.mkv", {}),
    ("out.mp4", {"encoding": Encoding(codec="libx265"), "bit_depth": 10}),
    ("out.webm", {}),
    ("out.mov", {"encoding": Encoding(codec="prores_ks")}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value)[:40])
def test_frames_times_and_audio_are_those_of_a_file_written_as_a_whole(
    clip, tmp_path, name, options
):
    output = tmp_path / name
    files = segments(clip, output, [0, 5, 9, FRAMES], tmp_path, **options)
    got = joined(clip, output, files, **options)
    media = open_media(clip)
    size = {"height": media.height, "width": media.width}
    with VideoWriter(tmp_path / f"whole_{name}", source=media, **size, **options) as writer:
        for frame in media.frames():
            writer.write(frame)
    whole = open_media(tmp_path / f"whole_{name}")
    assert got.num_frames == whole.num_frames == FRAMES
    assert got.times == whole.times and got.frame_rate == whole.frame_rate
    assert got.timing.duration == whole.timing.duration
    assert audio_of(output) == audio_of(whole.path)
    for one, other in zip(got.frames(), whole.frames(), strict=True):
        assert abs(one.astype(int) - other).mean() < (3 if one.dtype == "uint8" else 800)


def test_it_does_not_show_when_a_segment_was_made(clip, tmp_path):
    """Another order, and one of them twice: the same file, byte for byte."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    output = tmp_path / "out.mp4"
    files = segments(clip, output, [0, 5, FRAMES], tmp_path / "a")
    joined(clip, output, files)
    segments(clip, tmp_path / "other.mp4", [5, FRAMES], tmp_path / "b")
    (tmp_path / "b" / "0.packets").rename(tmp_path / "b" / "1.packets")
    segments(clip, tmp_path / "other.mp4", [0, 5], tmp_path / "b")
    other = tmp_path / "other.mp4"
    joined(clip, other, [tmp_path / "b" / f"{n}.packets" for n in range(2)])
    assert other.read_bytes() == output.read_bytes()


def test_damaged_packets_are_recognised(clip, tmp_path):
    output = tmp_path / "out.mp4"
    (file,) = segments(clip, output, [0, FRAMES], tmp_path)
    data = file.read_bytes()
    for damaged in (data[:-1], data[:10], data[:-5] + b"x" + data[-4:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="to begin anew"):
            joined(clip, output, [file])
    assert [path for path in tmp_path.iterdir() if path != file] == []


def test_nothing_but_the_packets_is_written(tmp_path):
    source = write_clip(tmp_path / "clip.mp4", frames=3)
    media = open_media(source)
    packets = tmp_path / "0.packets"
    writer = SegmentWriter(packets, 0, tmp_path / "out.mp4", media, height=48, width=64)
    with writer:
        writer.write(picture(0))
    assert {path.name for path in pathlib.Path(tmp_path).iterdir()} == {"clip.mp4", "0.packets"}
    assert len(list(read_packets(packets))) == 1
