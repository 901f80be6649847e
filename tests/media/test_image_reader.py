"""Images: what is written comes back, at 8 and 16 bits, from files and from bytes."""

import pathlib
import zlib

import av
import numpy as np
import pytest
from media_clips import picture
from PIL import Image, ImageCms

from skipsr_jax.errors import UserError
from skipsr_jax.media.image_reader import MOST_PIXELS, image_size, read_image
from skipsr_jax.media.image_writer import write_image

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def deep_picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (13, 17, 3), dtype=np.uint16)


@pytest.mark.parametrize("array", [picture(0, 13, 17), deep_picture()], ids=["8", "16"])
def test_png_is_exact_and_keeps_the_profile(tmp_path, array):
    write_image(tmp_path / "a.png", array, icc_profile=PROFILE)
    back, _, profile, _ = read_image(tmp_path / "a.png")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert profile == PROFILE
    assert image_size(tmp_path / "a.png") == (13, 17)
    with Image.open(tmp_path / "a.png") as seen:  # another reader accepts it, too
        seen.load()


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_lossy_images_are_close(tmp_path, extension):
    array = picture(0)
    write_image(tmp_path / f"a{extension}", array)
    back = read_image(tmp_path / f"a{extension}").on_black
    assert abs(back.astype(int) - array).mean() < 2


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(picture(0)).save(tmp_path / "phone.jpg", exif=exif, quality=98)
    back = read_image(tmp_path / "phone.jpg").on_black
    assert back.shape == (64, 48, 3) == (*image_size(tmp_path / "phone.jpg"), 3)
    assert abs(back.astype(int) - np.rot90(picture(0), -1)).mean() < 3


@pytest.mark.parametrize("behind", [False, True])
def test_orientation_of_a_png_is_known_without_decoding_it(tmp_path, behind, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(picture(0)).save(path, exif=exif)
    if behind:  # the chunk of metadata may follow the pixels
        data = path.read_bytes()
        start, end = data.index(b"eXIf") - 4, len(data) - 12
        length = 12 + int.from_bytes(data[start : start + 4], "big")
        chunk = data[start : start + length]
        path.write_bytes(data[:start] + data[start + length : end] + chunk + data[end:])
    back = read_image(path).on_black
    np.testing.assert_array_equal(back, np.rot90(picture(0), -1))
    assert image_size(path) == image_size(path, path.read_bytes()) == (64, 48)
    if not behind:
        monkeypatch.setattr(Image.Image, "load", None)
        assert image_size(path) == (64, 48)


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.webp", "deep.tif"])
def test_bytes_are_read_as_files_are(tmp_path, name):
    if name == "deep.tif":
        Image.fromarray(deep_picture()[..., 0]).save(tmp_path / name)
    else:
        array = deep_picture() if "deep" in name else picture(0)
        write_image(tmp_path / name, array, icc_profile=None if "webp" in name else PROFILE)
    data = (tmp_path / name).read_bytes()
    wanted, _, profile, _ = read_image(tmp_path / name)
    got, _, found, _ = read_image(tmp_path / "absent", data)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == wanted.dtype and found == profile
    with pytest.raises(UserError, match=r"absent.*0 bytes"):
        read_image(tmp_path / "absent", b"")


def test_transparency_lies_on_black(tmp_path):
    rgba = np.dstack([picture(0), np.full((48, 64), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    back = read_image(tmp_path / "a.png").on_black
    assert abs(back.astype(float) - picture(0) * (128 / 255)).max() <= 1
    deep = np.dstack([deep_picture(), np.full((13, 17), 32768, np.uint16)])
    with av.open(str(tmp_path / "deep.png"), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 17, 13, "rgba64be"
        frame = av.VideoFrame.from_ndarray(deep.astype("<u2"), format="rgba64le")
        container.mux(stream.encode(frame.reformat(format="rgba64be")))
        container.mux(stream.encode(None))
    back = read_image(tmp_path / "deep.png").on_black
    assert abs(back - deep_picture() * (32768 / 65535)).max() <= 1


def test_grey_16_bit_png_keeps_its_depth(tmp_path):
    grey = deep_picture()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    back = read_image(tmp_path / "grey.png").on_black
    assert abs(back.astype(int) - grey[..., None].astype(int)).max() <= 2


def test_bad_images_get_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:3000])
    (tmp_path / "bit.png").write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    (tmp_path / "header.png").write_bytes(whole[:8] + b"\0\0\0\4" + whole[12:])
    Image.fromarray(picture(0)).save(tmp_path / "no_sides.tif")
    tiff = (tmp_path / "no_sides.tif").read_bytes()
    (tmp_path / "no_sides.tif").write_bytes(tiff.replace(b"\0\1\4\0", b"\0\7\4\0", 1))
    frames = [Image.fromarray(picture(index)) for index in range(2)]
    for name in ("moving.webp", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for name, words in {
        "absent.png": "there is no file",
        "text.png": "cannot be read as an image",
        "empty.png": "0 bytes",
        "cut.png": "truncated",
        "bit.png": "the checksum of its chunk 'IDAT'",
        "header.png": "cannot be read as an image",
        "no_sides.tif": "cannot be read as an image",
        "moving.webp": "animation",
        "pages.tif": "has 2 pages; save each",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_image_of_too_many_pixels_is_refused_with_the_limit(tmp_path):
    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    side = (20000).to_bytes(4, "big")
    head = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    pixels = chunk(b"IDAT", zlib.compress(bytes(99)))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b""))
    for read in (image_size, read_image):
        with pytest.raises(UserError, match=f"more than {MOST_PIXELS} pixels, the most"):
            read(path)
    assert 2 * Image.MAX_IMAGE_PIXELS == MOST_PIXELS
    files = pathlib.Path(__file__).resolve().parents[2] / "docs" / "files.md"
    assert str(MOST_PIXELS) in files.read_text()


def test_a_program_in_postscript_is_no_image(tmp_path):
    """Pillow would start Ghostscript for it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(tmp_path / "a.png")
