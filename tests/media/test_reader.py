"""Reading: counts, rates, orientation, folders, and one clear line for whatever cannot be read."""

import csv
from fractions import Fraction

import numpy as np
import pytest
from media_clips import NTSC_FILM, picture, save_frames, write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media


def close(frame: np.ndarray, index: int, **size: int) -> bool:
    return abs(frame.astype(float) - picture(index, **size)).mean() < 2


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".mov", ".avi", ".ts"])
def test_every_frame_in_order_at_the_exact_rate(tmp_path, extension):
    media = open_media(write_clip(tmp_path / f"clip{extension}", frames=20))
    assert (media.kind, media.height, media.width, media.bit_depth) == ("video", 48, 64, 8)
    assert media.frame_rate == NTSC_FILM and media.times is None
    frames = list(media.frames())
    assert len(frames) == 20
    assert media.num_frames == 20
    assert all(close(frame, index) for index, frame in enumerate(frames))
    assert len(list(media.frames())) == 20  # decoding starts anew


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.vob", "mpeg2video"), ("a.m2t", "mpeg2video"), ("a.asf", "wmv2"), ("a.f4v", "libx264"),
     ("a.3g2", "libx264")],
)  # fmt: skip
def test_containers_under_other_names(tmp_path, name, codec):
    media = open_media(write_clip(tmp_path / name, frames=6, codec=codec, rate=Fraction(25)))
    assert media.num_frames == len(list(media.frames())) == 6
    assert media.timing.duration == Fraction(6, 25)


def test_10_bits_come_as_16(tmp_path):
    path = write_clip(
        tmp_path / "deep.mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        matrix=9,
        primaries=9,
        transfer=16,
    )
    media = open_media(path)
    assert media.bit_depth == 10
    assert (media.colour.matrix, media.colour.primaries, media.colour.transfer) == (9, 9, 16)
    frames = list(media.frames())
    assert frames[0].dtype == np.uint16
    assert close(frames[5] / 257, 5)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_phone_clips_stand_upright(tmp_path, degrees, turns):
    path = write_clip(tmp_path / "phone.mp4", rotation=degrees, aspect=Fraction(4, 3))
    media = open_media(path)
    shown = np.rot90(picture(2), turns)  # both turn counter-clockwise
    assert (media.height, media.width) == shown.shape[:2]
    assert media.sample_aspect_ratio == (Fraction(4, 3) if turns == 2 else Fraction(3, 4))
    frame = list(media.frames())[2]
    assert abs(frame.astype(float) - shown).mean() < 2


def test_odd_sizes(tmp_path):
    path = write_clip(tmp_path / "odd.mp4", height=35, width=51, pixel_format="yuv444p")
    media = open_media(path)
    assert (media.height, media.width) == (35, 51)
    assert close(next(media.frames()), 0, height=35, width=51)


def test_variable_rate_keeps_every_time(tmp_path):
    ticks = [0, 30, 63, 120, 130, 190, 300]
    path = write_clip(
        tmp_path / "phone.mp4", frames=7, ticks=ticks, time_base=Fraction(1, 600), rate=Fraction(20)
    )
    media = open_media(path)
    assert media.times == tuple(Fraction(tick, 600) for tick in ticks)
    assert len(list(media.frames())) == 7


def test_animated_gif(tmp_path):
    pictures = [Image.fromarray(picture(index)) for index in range(5)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    media = open_media(tmp_path / "a.gif")
    assert (media.kind, media.frame_rate) == ("video", 10)
    assert len(list(media.frames())) == media.num_frames == 5


def test_a_stopped_reader_lets_go_of_the_file(tmp_path):
    media = open_media(write_clip(tmp_path / "clip.mp4"))
    frames = media.frames()
    assert close(next(frames), 0)
    frames.close()
    (tmp_path / "clip.mp4").unlink()


def test_folder_of_frames_in_natural_order(tmp_path):
    folder = save_frames(tmp_path / "clip", 4)  # frame_8 .. frame_11
    (folder / "notes.txt").write_text("passed over")
    (folder / ".hidden.png").write_text("passed over")
    assert list_inputs(folder) == [folder]
    media = open_media(folder)
    assert (media.kind, media.num_frames, media.frame_rate) == ("frames", 4, None)
    for index, frame in enumerate(media.frames()):
        np.testing.assert_array_equal(frame, picture(index))


def test_bad_inputs_get_one_line(tmp_path, capfd):
    clip = write_clip(tmp_path / "clip.mp4", frames=40)
    whole = clip.read_bytes()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 20)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "no_index.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "nothing").mkdir()
    save_frames(save_frames(tmp_path / "sizes", 2), 1, start=10, height=20)
    for name, words in {
        "absent.mp4": "there is no file or folder",
        "text.mp4": "cannot be read as a video",
        "empty.mp4": "0 bytes",
        "no_index.mp4": "truncated",
        "table.csv": "neither a video nor an image",
        "nothing": "holds no image",
        "sizes": "one size",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            open_media(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no video, no image and no folder of frames"):
        list_inputs(tmp_path / "nothing")
    assert capfd.readouterr().err == ""  # libav stays silent


@pytest.mark.parametrize("seed", range(4))
def test_damage_inside_never_changes_the_count(tmp_path, seed):
    clip = write_clip(tmp_path / "clip.mkv", frames=40, height=96, width=128)
    data = bytearray(clip.read_bytes())
    for place in np.random.default_rng(seed).integers(len(data) // 4, len(data) - 200, 30):
        data[place] ^= 0xFF
    clip.write_bytes(data)
    try:
        frames = list(open_media(clip).frames())
    except UserError as error:
        assert any(word in str(error) for word in ("damaged", "truncated", "decoded"))
    else:
        assert len(frames) == open_media(clip).num_frames


def test_shared_clips(shared):
    folder = shared / "data" / "eval"
    rows = list(csv.DictReader((folder / "MANIFEST.tsv").open(), delimiter="\t"))
    assert rows
    for row in rows:
        media = open_media(folder / row["file"])
        assert (media.width, media.height) == (int(row["width"]), int(row["height"]))
        assert media.num_frames == int(row["frames"]), row["file"]
        if media.kind == "video":
            assert abs(float(media.frame_rate) - float(row["fps"])) < 0.01
            assert sum(1 for _ in media.frames()) == int(row["frames"]), row["file"]
