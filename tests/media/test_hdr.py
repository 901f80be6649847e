"""HDR10: mastering data and light levels reach the result; what cannot is named."""

from fractions import Fraction

import av
import pytest
from media_clips import write_clip

from skipsr_jax.media.encoding import Encoding
from skipsr_jax.media.hdr import Hdr, encoder_options, hdr_of
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter

DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR10 = {"matrix": 9, "primaries": 9, "transfer": 16, "pixel_format": "yuv420p10le"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    params = f"log-level=none:master-display={DISPLAY}:max-cll=1000,400"
    return write_clip(
        tmp_path_factory.mktemp("hdr") / "in.mp4",
        frames=4, height=64, width=96, codec="libx265", options={"x265-params": params}, **HDR10,
    )  # fmt: skip


def test_what_a_frame_says(source):
    hdr = open_media(source).video.hdr
    assert hdr.light == (1000, 400)
    assert hdr.luminance == (Fraction(5, 1000), 1000)
    assert hdr.primaries[:2] == (Fraction(34000, 50000), Fraction(16000, 50000))
    assert hdr.is_hdr10 and not hdr.others


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", None), ("b.mkv", None), ("c.mov", None), ("d.mkv", "libx264"),
     ("e.webm", None), ("f.mp4", "libsvtav1")],
)  # fmt: skip
def test_it_is_carried_over(tmp_path, source, name, codec):
    media = open_media(source)
    encoding = Encoding(codec=codec, pixel_format="yuv420p10le")
    with VideoWriter(
        tmp_path / name, height=64, width=96, source=media, encoding=encoding
    ) as writer:
        for frame in media.frames():
            writer.write(frame)
    assert writer.notes == []
    made = open_media(tmp_path / name)
    assert made.video.hdr.light == (1000, 400)
    for one, other in zip(
        (*made.video.hdr.primaries, *made.video.hdr.luminance),
        (*media.video.hdr.primaries, *media.video.hdr.luminance),
        strict=True,
    ):
        assert abs(one - other) < Fraction(1, 1000)
    assert made.colour == media.colour


def test_an_encoder_that_does_not_take_it_is_named(tmp_path, source):
    media = open_media(source)
    writer = VideoWriter(
        tmp_path / "a.mov", height=64, width=96, source=media, encoding=Encoding(codec="prores_ks")
    )
    assert any("HDR10 mastering data is left out" in note for note in writer.notes)


def test_hlg_and_dolby_vision_are_said(tmp_path):
    tags = HDR10 | {"transfer": 18}
    media = open_media(write_clip(tmp_path / "a.mkv", frames=2, codec="ffv1", **tags))
    assert "HLG" in media.notes[0] and media.colour.transfer == 18
    assert hdr_of(next(open_frames(tmp_path / "a.mkv"))) == Hdr()
    notes = Hdr(others=("Dolby Vision metadata", "HDR10+ metadata")).notes(16)
    assert "Dolby Vision" in notes[0] and "base layer" in notes[0] and "HDR10+" in notes[1]
    assert encoder_options(Hdr(), "libvpx-vp9") is None


def open_frames(path):
    with av.open(str(path)) as container:
        yield from container.decode(video=0)
