"""Reading training clips: any range, exact, and the pixels that inference sees."""

import fractions

import av
import numpy as np
import pytest
from media_clips import picture, save_frames, write_clip
from PIL import Image

from skipsr_jax.data import reading
from skipsr_jax.data.build import build
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.reading import read
from skipsr_jax.errors import UserError
from skipsr_jax.media.frame_filter import Crop
from skipsr_jax.media.reader import open_media


def write_video(path, frames):
    """Lossless, with a key frame every four frames."""
    with av.open(str(path), "w") as container:
        options = {"g": "4", "qp": "0", "bf": "2"}
        stream = container.add_stream("libx264rgb", rate=fractions.Fraction(25), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_untagged(path, rgb, height=720, width=1280):
    """One colour in BT.709, as files without tags of this size have it, and no word of it."""
    red, green, blue = (value / 255 for value in rgb)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = 16 + 219 * luma, *(128 + 112 * c for c in ((blue - luma) / 0.9278,
                                                        (red - luma) / 0.7874))  # fmt: skip
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(25), options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, code in zip(frame.planes, planes, strict=True):
            plane.update(np.full(plane.buffer_size, round(code), np.uint8))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    frames = np.random.default_rng(0).integers(0, 255, (11, 32, 48, 3), np.uint8)
    write_video(root / "b.mkv", frames)
    (root / "shot").mkdir()
    for i in (9, 10, 11):  # by number, not by name
        Image.fromarray(frames[i - 9]).save(root / "shot" / f"f{i}.png")
    return root, frames


@pytest.mark.parametrize(("start", "count"), [(0, 11), (3, 5), (10, 1)])
def test_any_range_of_a_video_is_exact(root, start, count, tmp_path):
    source = find_sources([str(root[0])])[0]
    want = root[1][start : start + count]
    np.testing.assert_array_equal(read(source, start, count), want)
    for _ in range(2):  # fills the cache, then reads it
        np.testing.assert_array_equal(read(source, start, count, str(tmp_path)), want)
    assert len(list(tmp_path.iterdir())) == 1
    crop = Crop(3, 8, 16, 33)
    for cache in (None, str(tmp_path)):
        got = read(source, start, count, cache, crop)
        np.testing.assert_array_equal(got, want[:, 3:19, 8:41])


def test_frame_folders_run_by_number(root):
    source = find_sources([str(root[0])])[1]
    np.testing.assert_array_equal(read(source, 1, 2), root[1][1:3])


def test_clips_cached_by_an_older_decoder_are_not_used(root, tmp_path, monkeypatch):
    source = find_sources([str(root[0])])[0]
    read(source, 0, 3, str(tmp_path))
    monkeypatch.setattr(reading, "DECODER_VERSION", reading.DECODER_VERSION + 1)
    read(source, 0, 3, str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_said_once(root, tmp_path, caplog):
    source = find_sources([str(root[0])])[0]
    (tmp_path / "file").touch()
    for _ in range(2):
        got = read(source, 3, 2, str(tmp_path / "file"))
        np.testing.assert_array_equal(got, root[1][3:5])
    assert len(caplog.messages) == 1
    assert "decoded clips are not kept in" in caplog.messages[0]


def test_a_damaged_clip_of_the_cache_is_decoded_again(root, tmp_path):
    source = find_sources([str(root[0])])[0]
    read(source, 0, 1, str(tmp_path))
    (cached,) = tmp_path.iterdir()
    whole = cached.read_bytes()
    other = np.zeros((2, 2), np.float32)
    for damaged in (b"", whole[:60], whole[:-1], b"x" + whole[1:], other.tobytes()):
        cached.write_bytes(damaged)
        np.testing.assert_array_equal(read(source, 3, 2, str(tmp_path)), root[1][3:5])
        assert cached.read_bytes() == whole
    np.save(cached, other)
    np.testing.assert_array_equal(read(source, 3, 2, str(tmp_path)), root[1][3:5])


def same_as_inference(folder, path):
    """Reads all frames for training; asserts that inference reads the same, from records too."""
    (source,) = find_sources([str(folder)])
    got = read(source, 0, source.frames)
    whole = list(open_media(path).frames())
    want = whole if whole[0].dtype == np.uint8 else [np.rint(frame / 257) for frame in whole]
    np.testing.assert_array_equal(got, want)
    built = folder.parent / "built"
    build(str(folder), str(built))
    (record,) = find_sources([str(built)])
    assert (record.height, record.width) == (source.height, source.width) == got.shape[1:3]
    np.testing.assert_array_equal(read(record, 0, record.frames), got)
    crop = Crop(5, 9, 31, 22)
    np.testing.assert_array_equal(read(source, 0, 1, crop=crop), got[:1, 5:36, 9:31])
    return got


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_an_untagged_video_of_720_rows_is_read_as_bt_709(folder):
    write_untagged(folder / "a.mp4", (200, 40, 60))
    got = same_as_inference(folder, folder / "a.mp4")
    assert abs(got[0, 100, 100].astype(int) - (200, 40, 60)).max() <= 1


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_a_rotated_video_is_upright(folder, degrees, turns):
    write_clip(folder / "phone.mp4", rotation=degrees)
    got = same_as_inference(folder, folder / "phone.mp4")
    want = np.rot90(picture(2), turns)
    assert got.shape[1:] == want.shape and abs(got[2].astype(int) - want).mean() < 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("full.mp4", {"full_range": True, "matrix": 1}),
        ("deep.mkv", {"codec": "libx265", "pixel_format": "yuv420p10le", "matrix": 9}),
        ("site.webm", {"codec": "libvpx-vp9"}),  # states no chroma site
        ("old.mpg", {"codec": "mpeg2video", "rate": fractions.Fraction(25)}),
    ],
)
def test_range_depth_and_chroma_site_are_those_of_inference(folder, name, options):
    write_clip(folder / name, **options)
    got = same_as_inference(folder, folder / name)
    assert abs(got[3].astype(int) - picture(3)).mean() < 4


def test_avi_has_all_of_its_frames(folder):
    write_clip(folder / "old.avi", codec="mpeg4", frames=12, options={"bf": "2"})
    (source,) = find_sources([str(folder)])
    assert source.frames == 12
    np.testing.assert_array_equal(
        read(source, 4, 8), list(open_media(folder / "old.avi").frames())[4:]
    )


def test_pictures_are_upright_and_opaque_and_deep_ones_are_rounded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([picture(0), np.full((48, 64), 128, np.uint8)])
    pictures = {
        "phone.jpg": (Image.fromarray(picture(0)), {"exif": exif}),
        "clear.png": (Image.fromarray(rgba), {}),
        "grey.tif": (Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 200), {}),
    }
    for number, (name, (image, options)) in enumerate(pictures.items()):
        folder = tmp_path / str(number) / "raw"
        folder.mkdir(parents=True)
        image.save(folder / name, **options)
        same_as_inference(folder, folder / name)


def test_a_folder_of_frames_is_read_as_for_inference(folder):
    save_frames(folder / "shot", 4)
    same_as_inference(folder, folder / "shot")


def test_a_file_that_changed_is_refused(root):
    source = find_sources([str(root[0])])[0]
    for start in (8, 12):
        with pytest.raises(UserError, match="remove the file"):
            read(source, start, 5)
