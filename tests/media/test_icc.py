"""Colour profiles: handed on with RGB, applied to greys and CMYK."""

import io

import numpy as np
import pytest
from media_clips import picture
from PIL import Image, ImageCms

from skipsr_jax.media import icc
from skipsr_jax.media.image_reader import read_image


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of greys with a power law: header, then a table of three tags (ICC.1:2010)."""
    d50 = b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1, 0.8249))
    white = b"XYZ \0\0\0\0" + d50
    power = round(gamma * 256).to_bytes(2, "big")
    curve = b"curv\0\0\0\0" + (1).to_bytes(4, "big") + power + b"\0\0"
    text = b"desc\0\0\0\0" + (5).to_bytes(4, "big") + b"Grey\0" + b"\0" * 79
    tags, body = [], b""
    for name, data in ((b"desc", text), (b"wtpt", white), (b"kTRC", curve)):
        data += b"\0" * (-len(data) % 4)
        tags.append(name + (168 + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big"))
        body += data
    table = (3).to_bytes(4, "big") + b"".join(tags)
    header = bytearray(128)
    header[8:12], header[12:24] = b"\2\x10\0\0", b"mntrGRAYXYZ "
    header[36:40] = b"acsp"
    header[68:80] = d50
    whole = bytes(header) + table + body
    return len(whole).to_bytes(4, "big") + whole[4:]


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_profile_of_greys_is_applied_and_never_left_on_rgb(tmp_path):
    profile = grey_profile(1.0)  # linear light
    assert icc.space_of(profile) == "GRAY"
    grey = Image.fromarray(picture(0)[..., 0])
    grey.save(tmp_path / "a.png", icc_profile=profile)
    still = read_image(tmp_path / "a.png")
    assert still.icc_profile is None
    linear = np.asarray(grey) / 255.0
    want = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert abs(still.rgb[..., 1] / 255 - want).max() < 0.02
    deep = np.asarray(grey).astype(np.uint16)[..., None].repeat(3, -1) * 257
    assert abs(icc.grey_to_srgb(deep, profile)[..., 0] / 65535 - want).max() < 0.02


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_of_rgb_is_handed_on_and_the_colours_stay(tmp_path, mode):
    Image.fromarray(picture(0)).convert(mode).save(tmp_path / "a.png", icc_profile=srgb())
    assert read_image(tmp_path / "a.png").icc_profile == srgb()


def test_a_profile_of_another_space_is_dropped(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png", icc_profile=grey_profile(2.2))
    still = read_image(tmp_path / "a.png")
    assert still.icc_profile is None
    np.testing.assert_array_equal(still.rgb, picture(0))


def test_a_damaged_profile_is_said(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    still = read_image(tmp_path / "a.png")
    assert still.icc_profile is None and "damaged" in still.note


def test_cmyk_by_its_profile(shared):
    """Artifex's profile of SWOP paper, from a file that a print shop would send."""
    path = shared / "faults" / "cmyk_with_icc_colour_shift.jpg"
    still = read_image(path)
    assert abs(still.rgb[0, 16].astype(int) - (64, 182, 78)).max() <= 2
    image, file = Image.open(path), io.BytesIO()
    image.save(file, "TIFF", icc_profile=image.info["icc_profile"])
    still = read_image(path.with_suffix(".tif"), file.getvalue())
    assert abs(still.rgb[0, 16].astype(int) - (64, 182, 78)).max() <= 2


def test_cmyk_without_a_profile_and_lab(tmp_path):
    Image.fromarray(picture(0)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert abs(read_image(tmp_path / "a.jpg").rgb.astype(float) - picture(0)).mean() < 3
    lab = ImageCms.profileToProfile(
        Image.fromarray(picture(0)), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )  # fmt: skip
    lab.save(tmp_path / "a.tif")
    assert abs(read_image(tmp_path / "a.tif").rgb.astype(float) - picture(0)).mean() < 3
