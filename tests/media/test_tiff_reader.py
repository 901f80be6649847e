"""TIFF files of every sample: a picture with its own values, or one line."""

import struct

import numpy as np
import pytest
from media_clips import picture
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.image_reader import image_header, read_image
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.tiff_reader import scaled_to_16_bits, tiff_samples

UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(values: np.ndarray, form: int, photometric: int | None = None, orientation: int = 1):
    """The bytes of an uncompressed little-endian TIFF (TIFF 6.0)."""
    height, width = values.shape[:2]
    count = 1 if values.ndim == 2 else values.shape[2]
    bits, data = values.dtype.itemsize * 8, values.tobytes()
    if photometric is None:
        photometric = 2 if count >= 3 else 1
    entries = 11
    end = 8 + 2 + entries * 12 + 4
    lists = [struct.pack(f"<{count}H", *[value] * count) for value in (bits, form)]
    wide = count > 2
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, count, end if wide else bits),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, end + 4 * count if wide else end),
        (274, 3, 1, orientation), (277, 3, 1, count), (278, 4, 1, height), (279, 4, 1, len(data)),
        (339, 3, count, end + 2 * count if wide else form),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<IH", 8, entries) + directory + struct.pack("<I", 0)
    return start + (b"".join(lists) if wide else b"") + data


UNIT = picture(3).astype(np.float64) / 255
GREY = UNIT[..., 0]


def close(got, want):
    return abs(got / 65535 - (want if want.ndim == 3 else want[..., None])).max() < 1e-3


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (GREY.astype(np.float32), FLOAT),
        (UNIT.astype(np.float32), FLOAT),
        ((GREY * 65535).astype(np.uint16), UNSIGNED),
        ((UNIT * 65535).astype(np.uint16), UNSIGNED),
    ],
)
def test_values_that_mean_0_to_1_are_kept(tmp_path, values, form):
    (tmp_path / "a.tif").write_bytes(tiff(values, form))
    still = read_image(tmp_path / "a.tif")
    assert close(still.rgb, values / (1 if form == FLOAT else 65535)) and still.note == ""
    assert image_header(tmp_path / "a.tif")[:2] == values.shape[:2]
    assert open_media(tmp_path / "a.tif").bit_depth == 16


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (GREY.astype(np.float32) * 1e4 - 30, FLOAT),
        (UNIT.astype(np.float32) * 255, FLOAT),
        ((GREY * 4294967295).astype(np.uint32), UNSIGNED),
        ((GREY * 2**30 - 2**29).astype(np.int32), SIGNED),
        ((GREY * 60000 - 30000).astype(np.int16), SIGNED),
    ],
)
def test_other_values_are_scaled_by_their_range_and_it_is_said(tmp_path, values, form):
    (tmp_path / "a.tif").write_bytes(tiff(values, form))
    still = read_image(tmp_path / "a.tif")
    least, most = float(values.min()), float(values.max())
    assert close(still.rgb, (values.astype(np.float64) - least) / (most - least))
    assert "scaled to black and white" in still.note
    assert open_media(tmp_path / "a.tif").notes == (still.note,)
    (tmp_path / "frames").mkdir()
    for name in ("f1.tif", "f2.tif"):
        (tmp_path / "frames" / name).write_bytes(tiff(values, form))
    with pytest.raises(UserError, match="convert the frames to 16 bits"):
        open_media(tmp_path / "frames")


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (GREY.astype(np.float64), FLOAT),
        (GREY.astype(np.float16), FLOAT),
        (UNIT.astype(np.float16), FLOAT),
        ((UNIT * 4294967295).astype(np.uint32), UNSIGNED),
        ((UNIT * 32767).astype(np.int16), SIGNED),
    ],
)
def test_what_no_library_reads_right_is_refused_with_its_kind(tmp_path, values, form):
    (tmp_path / "a.tif").write_bytes(tiff(values, form))
    bits = values.dtype.itemsize * 8
    with pytest.raises(UserError, match=f"{bits} bits.*convert it to 16 bits") as caught:
        read_image(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_white_may_be_zero(tmp_path):
    deep = (GREY * 65535).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(deep, UNSIGNED, photometric=0))
    assert close(read_image(tmp_path / "a.tif").rgb, 1 - GREY)
    (tmp_path / "b.tif").write_bytes(tiff(GREY.astype(np.float32), FLOAT, photometric=0))
    assert close(read_image(tmp_path / "b.tif").rgb, GREY.max() - GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_at_every_depth(tmp_path, orientation):
    for values, form in ((UNIT.astype(np.float32), FLOAT), ((GREY * 255).astype(np.uint8), 1)):
        (tmp_path / "a.tif").write_bytes(tiff(values, form, orientation=orientation))
        got = read_image(tmp_path / "a.tif").rgb
        shape = values.shape[1::-1] if orientation >= 5 else values.shape[:2]
        assert got.shape[:2] == image_header(tmp_path / "a.tif")[:2] == shape
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray((UNIT * 255).astype(np.uint8)).save(tmp_path / "b.png", exif=exif)
        want = read_image(tmp_path / "b.png").rgb[..., 0] / 255
        assert abs(got[..., 0] / np.iinfo(got.dtype).max - want).max() < 0.01


def test_no_range_and_no_numbers():
    flat, note = scaled_to_16_bits(np.full((2, 2), 7.0))
    assert (flat == 0).all() and note
    values, _ = scaled_to_16_bits(np.array([[0.0, np.nan], [1.0, 0.5]]))
    assert values.tolist() == [[0, 0], [65535, 32768]]
    assert tiff_samples(b"II*\0") is None and tiff_samples(b"nothing") is None
