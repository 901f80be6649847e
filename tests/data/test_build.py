"""A built dataset gives the frames of its source, bit for bit, and knows where scenes change."""

import fractions
import json
import os
import pathlib
import pickle
import shutil
import sys

import av
import numpy as np
import pytest
from media_clips import field_coded_h264, trimmed, write_clip
from PIL import Image

from skipsr_jax.data.build import build, main
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.reading import read
from skipsr_jax.data.record_builder import SkipsrClips
from skipsr_jax.data.sample import Recipe
from skipsr_jax.errors import UserError


def scene(seed, frames, height=48, width=64):
    """Blocks that drift by a pixel a frame."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 8, 20, 3), np.uint8)
    picture = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    return np.stack([picture[:, i : i + width] for i in range(frames)])


LOSSLESS = {"qp": "0", "g": "6", "bf": "2", "sc_threshold": "0"}


def write_video(path, frames, codec="libx264rgb", pixels="rgb24", **options):
    with av.open(str(path), "w") as container:
        rate = fractions.Fraction(25)
        stream = container.add_stream(codec, rate=rate, options=options or LOSSLESS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


CLIPS = {
    "short": scene(0, 9),
    "cut": np.concatenate([scene(1, 7), scene(2, 11)]),
    "long": np.concatenate([scene(3, 34), scene(4, 8)]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    write_video(root / "short.mkv", CLIPS["short"])
    (root / "sub").mkdir()
    write_video(root / "sub" / "cut.mp4", CLIPS["cut"])
    write_video(root / "long.mp4", CLIPS["long"])
    (root / "shot").mkdir()
    for i, frame in enumerate(CLIPS["short"][:5]):
        Image.fromarray(frame).save(root / "shot" / f"{i + 8}.png")  # 8, 9, 10: by number
    Image.fromarray(CLIPS["cut"][0]).save(root / "photo.png")
    return root


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "clips"
    return out, build(str(folder), str(out), longest=20)


def pieces_of(built, name):
    """The sources of one file, in order, with their entries of the index."""
    entries = zip(find_sources([str(built[0])]), built[1]["clips"], strict=True)
    found = [(source, entry) for source, entry in entries if entry["name"] == name]
    return sorted(found, key=lambda pair: pair[1]["piece"])


def test_every_clip_is_there_bit_for_bit(built):
    for name, want in (
        ("short.mkv", CLIPS["short"]),
        ("sub/cut.mp4", CLIPS["cut"]),
        ("shot", CLIPS["short"][:5]),
        ("photo.png", CLIPS["cut"][:1]),
    ):
        ((source, _),) = pieces_of(built, name)
        assert source.kind == ("image" if name == "photo.png" else "video")
        np.testing.assert_array_equal(read(source, 0, source.frames), want)
    (source, _) = pieces_of(built, "sub/cut.mp4")[0]
    np.testing.assert_array_equal(read(source, 5, 9), CLIPS["cut"][5:14])


def test_long_videos_come_in_pieces_at_key_frames(built):
    found = pieces_of(built, "long.mp4")
    assert [source.frames for source, _ in found] == [24, 18]  # key frames every 6, 20 or more
    frames = np.concatenate([read(source, 0, source.frames) for source, _ in found])
    np.testing.assert_array_equal(frames, CLIPS["long"])


def test_open_groups_of_pictures_lose_only_frames_at_the_seam(tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "open.mkv"
    write_video(path, CLIPS["long"], "mpeg2video", "yuv420p", g="6", bf="2")  # open by default
    (whole,) = find_sources([str(tmp_path / "raw")])
    want = read(whole, 0, whole.frames)
    index = build(str(tmp_path / "raw"), str(tmp_path / "out"), longest=15)
    found = pieces_of((tmp_path / "out", index), "open.mkv")
    total = sum(source.frames for source, _ in found)
    assert len(found) > 1 and len(want) - 2 * len(found) <= total < len(want)
    after = 0
    for source, _ in found:
        frames = read(source, 0, source.frames)
        first = int(np.flatnonzero((want == frames[0]).all((1, 2, 3)))[0])
        assert after <= first <= after + 2
        np.testing.assert_array_equal(frames, want[first : first + len(frames)])
        after = first + len(frames)
    assert after == len(want)


def remuxed(source, target, change):
    """A clip whose list of packets ``change`` has changed."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        packets = [packet for packet in read.demux(stream) if packet.size]
        for packet in change(packets):
            packet.stream = copy
            write.mux(packet)


def with_a_time_twice(packets):
    packets[4].pts = packets[4].dts = packets[3].pts
    return packets


def test_a_video_that_cannot_be_cut_stays_whole(tmp_path):
    """An edit list that begins behind a key frame, fields in packets of their own, a codec that
    Matroska does not take, a tag in another encoding, joined recordings, a stream that begins in
    the middle of a group of pictures, a time stamp that repeats: as in inference."""
    raw = tmp_path / "raw"
    raw.mkdir()
    trimmed(write_clip(tmp_path / "whole.mp4", frames=12), raw / "trimmed.mp4", 3)
    write_clip(raw / "old.flv", frames=12, codec="flv")
    title = write_clip(raw / "title.mp4", frames=12, tags={"title": "Caf?"})
    title.write_bytes(title.read_bytes().replace(b"Caf?", b"Caf\xe9"))
    for name in ("one.ts", "two.ts"):
        write_clip(tmp_path / name, frames=12, codec="mpeg2video", options={"g": "6"})
    joined = [(tmp_path / name).read_bytes() for name in ("one.ts", "two.ts")]
    (raw / "joined.ts").write_bytes(b"".join(joined))
    remuxed(tmp_path / "one.ts", raw / "late.ts", lambda packets: packets[2:])
    write_clip(tmp_path / "plain.mkv", frames=9, options={"g": "3", "bf": "0"})
    remuxed(tmp_path / "plain.mkv", raw / "again.mkv", with_a_time_twice)
    (raw / "fields.mpg").write_bytes(b"".join(field_coded_h264(6)))
    want = {source.path: source.frames for source in find_sources([str(raw)])}
    assert {pathlib.Path(path).name: frames for path, frames in want.items()} == {
        "trimmed.mp4": 9, "old.flv": 12, "title.mp4": 12, "joined.ts": 24, "late.ts": 6,
        "again.mkv": 9, "fields.mpg": 6,
    }  # fmt: skip
    index = build(str(raw), str(tmp_path / "out"), longest=5)
    assert index["passed_over"] == []
    for name in (pathlib.Path(path).name for path in want):
        found = pieces_of((tmp_path / "out", index), name)
        assert sum(source.frames for source, _ in found) == want[str(raw / name)]
        (whole,) = (source for source in find_sources([str(raw)]) if source.path.endswith(name))
        np.testing.assert_array_equal(
            np.concatenate([read(source, 0, source.frames) for source, _ in found]),
            read(whole, 0, whole.frames),
        )


def test_cuts_are_written_and_no_sample_crosses_one(built):
    (source, _) = pieces_of(built, "sub/cut.mp4")[0]
    assert source.cuts == (7,)
    (first, _), (second, _) = pieces_of(built, "long.mp4")
    assert first.cuts == () and second.cuts == (10,)
    recipe = Recipe(ClipShape(4, 5, 48, 64), None, pan_share=0.0, masks=False)
    dataset = batches([source], recipe)
    starts = set()
    for index in range(8):
        for frames in dataset[index].hr[0]:
            at = [
                i
                for i in range(len(CLIPS["cut"]) - 4)
                for clip in (CLIPS["cut"][i : i + 5], CLIPS["cut"][i : i + 5, :, ::-1])
                if np.array_equal(clip, frames)
            ]
            starts.update(at)
            assert at
    assert starts <= {0, 1, 2, 7, 8, 9, 10, 11, 12, 13} and min(starts) < 3 and max(starts) >= 7


def test_clips_without_a_shot_that_is_long_enough_are_left_out(built):
    (source, _) = pieces_of(built, "sub/cut.mp4")[0]
    with pytest.raises(UserError, match="none of 1 videos"):
        batches([source], Recipe(ClipShape(1, 13, 48, 64), None, pan_share=0.0))


def test_the_cache_and_pickled_sources_give_the_same_bytes(built, tmp_path):
    (source, _) = pieces_of(built, "short.mkv")[0]
    again = pickle.loads(pickle.dumps(source))
    for _ in range(2):
        got = read(again, 2, 5, str(tmp_path))
        np.testing.assert_array_equal(got, CLIPS["short"][2:7])


def test_the_same_source_gives_the_same_bytes(folder, built, tmp_path):
    build(str(folder), str(tmp_path / "again"), longest=20)
    files = sorted(path.name for path in built[0].iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in files:
        if "array_record" in name or name == "index.json":
            assert (built[0] / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert "tensorflow" not in sys.modules


def test_nothing_stays_of_a_build_that_fails_and_files_are_passed_over(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_video(raw / "good.mkv", CLIPS["short"])
    write_video(raw / "worse.mp4", CLIPS["long"])
    data = bytearray((raw / "worse.mp4").read_bytes())
    start = data.index(b"mdat") + 4  # packets are all listed, behind; what they hold is gone
    stop = data.index(b"moov") - 4
    data[(start + stop) // 2 : stop] = bytes(stop - (start + stop) // 2)
    (raw / "worse.mp4").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"worse\.mp4"):
        build(str(raw), str(tmp_path / "out"), strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    (raw / "letter.mp4").write_text("Dear reader")
    (raw / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    assert main(["build", f"--source={raw}", f"--out={tmp_path / 'out'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("; passed over 3:"))
    assert "wrote 1 videos of" in lines[start]
    named = ["cut.png", "letter.mp4", "worse.mp4"]
    assert all(name in line for name, line in zip(named, lines[start + 1 :], strict=True))
    (raw / "good.mkv").unlink()
    with pytest.raises(UserError, match="no clip can be decoded"):
        build(str(raw), str(tmp_path / "none"))


def test_a_disk_without_space_is_said_before_and_while_records_are_written(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_video(raw / "a.mkv", CLIPS["short"])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(UserError, match="the dataset takes up to"):
        build(str(raw), str(tmp_path / "out"))
    monkeypatch.undo()

    def is_full(*_):
        raise RuntimeError(f"Failed to finalize writing: write() failed: {os.strerror(28)}; ...")

    monkeypatch.setattr(SkipsrClips, "download_and_prepare", is_full)
    with pytest.raises(UserError, match=r"^cannot write .*out: No space left on device$"):
        build(str(raw), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_refusals(built, folder, tmp_path, capsys):
    with pytest.raises(UserError, match="exists"):
        build(str(folder), str(tmp_path))
    with pytest.raises(UserError, match="not found"):
        build(str(tmp_path / "absent"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="built dataset already"):
        build(str(built[0]), str(tmp_path / "out"))
    assert main(["build", f"--source={folder}"]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["build", "--sauce=a"]) == 1
    assert "sauce" in capsys.readouterr().err


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw" / "a.mkv", CLIPS["cut"])
    out = tmp_path / "new" / "clips"
    assert main(["build", f"--source={tmp_path / 'raw'}", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "1 videos of 18 frames with 1 scene cuts, and 0 pictures" in printed
    assert json.loads((out / "index.json").read_text())["clips"][0]["cuts"] == [7]
