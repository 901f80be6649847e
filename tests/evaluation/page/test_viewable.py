"""Copies for browsers: what is copied, what is encoded again, and that it looks the same."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import picture, save_frames, write_clip
from PIL import Image

from skipsr_jax.evaluation.metrics import psnr
from skipsr_jax.evaluation.page import viewable
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.reader import open_media


def frames_of(path):
    return np.stack(list(open_media(path).frames()))


def pixel_format(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.codec_context.pix_fmt


def test_what_browsers_show_is_copied_byte_for_byte(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", frames=4)
    media = open_media(clip)
    made = viewable.make_viewable(media, tmp_path, "copy")
    assert made.copied and made.path.read_bytes() == clip.read_bytes()
    write_image(tmp_path / "a.webp", picture(0))
    made = viewable.make_viewable(open_media(tmp_path / "a.webp"), tmp_path, "still")
    assert made.copied and made.kind == "image" and made.path.suffix == ".webp"
    made = viewable.make_viewable(media, tmp_path, "again", copy=False)
    assert not made.copied and made.path.read_bytes() != clip.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "libx265", "height": 64, "pixel_format": "yuv420p10le"},
        {"pixel_format": "yuv444p", "height": 49, "width": 65},
        {"ticks": [0, 2, 3, 7], "time_base": Fraction(1, 50)},
        {"rotation": 90},
        {"matrix": 1},
    ],
    ids=["hevc", "odd", "variable", "turned", "other-rate"],
)
def test_other_videos_become_h264_with_even_sides_at_one_rate(tmp_path, change):
    clip = write_clip(tmp_path / "clip.mp4", frames=4, **change)
    media, rate = open_media(clip), Fraction(20)
    made = viewable.make_viewable(media, tmp_path, "shown", rate=rate, frames=3)
    assert not made.copied and pixel_format(made.path) == ("h264", "yuv420p")
    again = open_media(made.path)
    assert again.frame_rate == rate and again.times is None and again.num_frames == 3
    assert (made.height, made.width) == (media.height, media.width)
    assert (again.height, again.width) == (made.coded_height, made.coded_width)
    wanted = np.stack([viewable.eight_bits(f) for f in itertools.islice(media.frames(), 3)])
    found = frames_of(made.path)[:, : made.height, : made.width]
    assert psnr(found, wanted, data_range=255) > 38


def test_a_folder_of_frames_becomes_a_video_and_one_frame_a_picture(tmp_path):
    folder = save_frames(tmp_path / "frames", 3)
    made = viewable.make_viewable(open_media(folder), tmp_path, "moving")
    assert made.kind == "video" and open_media(made.path).num_frames == 3
    folder = save_frames(tmp_path / "one", 1)
    made = viewable.make_viewable(open_media(folder), tmp_path, "still")
    assert made.kind == "image"
    np.testing.assert_array_equal(frames_of(made.path)[0], picture(0))


def test_pictures_of_16_bits_and_tiff_become_png(tmp_path):
    deep = picture(0).astype(np.uint16) * 257
    write_image(tmp_path / "deep.png", deep)
    Image.fromarray(picture(0)).save(tmp_path / "old.tif")
    for name in ("deep.png", "old.tif"):
        made = viewable.make_viewable(open_media(tmp_path / name), tmp_path, f"{name}-shown")
        assert not made.copied and made.path.suffix == ".png"
        np.testing.assert_array_equal(frames_of(made.path)[0], picture(0))
