"""Alpha: kept beside the colours, upscaled by the same factor, or laid on black with a line."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import picture
from PIL import Image

from skipsr_jax.inference import outputs
from skipsr_jax.inference.settings import Output
from skipsr_jax.media.image_reader import read_image
from skipsr_jax.media.reader import open_media

HEIGHT, WIDTH = 48, 64


def hole(index=0):
    """Opaque but for a transparent square and a half-transparent row."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[8:24, 16 + index : 40 + index] = 0
    alpha[40] = 128
    return alpha


def write_alpha_clip(path, codec, pixel_format, options=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        for index in range(4):
            rgba = np.dstack([picture(index), hole(index)])
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return path


def upscaled(source, target, output=Output()):  # noqa: B008
    """The result of doubling a file by repetition of its pixels, written as infer.py writes it."""
    media, notes = outputs.with_alpha(open_media(source), target, output)
    size = 2 * media.height, 2 * media.width
    assert outputs.check_output(target, media, size, output, False) == []
    writer = outputs.open_writer(target, media, size, output, False)
    with writer:
        for frame in media.frames():
            writer.write(frame.repeat(2, 0).repeat(2, 1))
    return notes


def alphas_of(path):
    media = open_media(path)
    assert media.has_alpha
    scale = 1 if media.bit_depth == 8 else 257
    return [alpha / scale for alpha in media.alphas()]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("target", ["b.png", "b.webp"])
def test_pictures_keep_their_alpha(tmp_path, mode, target):
    image = Image.fromarray(np.dstack([picture(0), hole()]), "RGBA")
    image = image.convert(mode) if mode != "P" else image.quantize(64)
    image.save(tmp_path / "a.png")
    assert upscaled(tmp_path / "a.png", tmp_path / target) == []
    back = np.array(Image.open(tmp_path / target).convert("RGBA"))
    assert back.shape == (2 * HEIGHT, 2 * WIDTH, 4)
    assert (back[20:44, 36:76, 3] == 0).all() and (back[60:70, :, 3] == 255).all()
    source = np.array(image.convert("RGBA"))[30:36, :, :3].repeat(2, 0).repeat(2, 1)
    assert abs(back[60:72, :, :3].astype(float) - source).mean() < 4


def test_16_bits_keep_their_alpha(tmp_path):
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgba64be"
        rgba = np.dstack([picture(0), hole()]).astype(np.uint16) * 257 + 3
        rgba[..., 3] = hole().astype(np.uint16) * 257
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba64le").reformat(format="rgba64be")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert upscaled(tmp_path / "a.png", tmp_path / "b.png") == []
    still = read_image(tmp_path / "b.png")
    assert still.alpha.dtype == np.uint16
    np.testing.assert_array_equal(still.rgb[::2, ::2], rgba[..., :3])
    assert (still.alpha[20:44, 36:76] == 0).all() and (still.alpha[60:70] == 65535).all()


def test_a_folder_keeps_the_alpha_of_each_frame(tmp_path):
    (tmp_path / "a").mkdir()
    for index in range(3):
        rgba = np.dstack([picture(index), hole() if index == 1 else np.full_like(hole(), 255)])
        Image.fromarray(rgba).save(tmp_path / "a" / f"{index:03}.png")
    assert upscaled(tmp_path / "a", tmp_path / "b") == []
    least = [np.array(Image.open(tmp_path / "b" / f"{i:03}.png"))[..., 3].min() for i in range(3)]
    assert least == [255, 0, 255]


CLIPS = {
    "prores.mov": ("prores_ks", "yuva444p10le"),
    "ffv1.mkv": ("ffv1", "yuva420p"),
    "qtrle.mov": ("qtrle", "argb"),
    "png.mov": ("png", "rgba"),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips_keep_their_alpha(tmp_path, name):
    source = write_alpha_clip(tmp_path / name, *CLIPS[name])
    for target, output in (("b.mov", Output()), ("b.mkv", Output(codec="ffv1"))):
        assert upscaled(source, tmp_path / target, output) == []
        before, after = alphas_of(source), alphas_of(tmp_path / target)
        assert len(after) == 4
        for one, other in zip(before, after, strict=True):
            assert abs(one.repeat(2, 0).repeat(2, 1) - other).mean() < 8
            assert (other[20:44, 48:72] < 4).all()


def test_webm_keeps_8_bits_of_alpha(tmp_path):
    source = write_alpha_clip(tmp_path / "a.mkv", "ffv1", "yuva420p")
    assert upscaled(source, tmp_path / "b.webm") == []
    assert upscaled(tmp_path / "b.webm", tmp_path / "c.webm") == []  # and is read from there
    for path, scale in ((tmp_path / "b.webm", 2), (tmp_path / "c.webm", 4)):
        for one, other in zip(alphas_of(source), alphas_of(path), strict=True):
            assert abs(one.repeat(scale, 0).repeat(scale, 1) - other).mean() < 8


def test_alpha_of_webm_is_read_with_the_colours_that_the_container_states(tmp_path):
    source = write_alpha_clip(tmp_path / "a.mkv", "ffv1", "yuva420p")
    assert upscaled(source, tmp_path / "b.webm") == []
    with av.open(str(tmp_path / "b.webm")) as read, av.open(str(tmp_path / "c.webm"), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        copy.codec_context.color_primaries, copy.codec_context.color_trc = 9, 16
        copy.metadata.update(stream.metadata)
        for packet in read.demux(stream):
            if packet.size:
                packet.stream = copy
                write.mux(packet)
    colour = open_media(tmp_path / "c.webm").colour
    assert (colour.primaries, colour.transfer) == (9, 16)


@pytest.mark.parametrize("target", ["b.mp4", "b.mkv", "b.jpg"])
def test_what_cannot_hold_alpha_is_laid_on_black_and_says_so(tmp_path, target):
    if target == "b.jpg":
        Image.fromarray(np.dstack([picture(0), hole()])).save(tmp_path / "a.png")
        source = tmp_path / "a.png"
    else:
        source = write_alpha_clip(tmp_path / "a.mov", "png", "rgba")
    (note,) = upscaled(source, tmp_path / target)
    assert "laid on black" in note and target[1:] in note
    frame = next(open_media(tmp_path / target).frames())
    assert frame[22:40, 40:72].max() < 12 and frame[60:70].mean() > 60


def test_the_codec_decides(tmp_path):
    source = open_media(write_alpha_clip(tmp_path / "a.mov", "png", "rgba"))
    for name, output, kept in (
        ("b.mov", Output(codec="libx264"), False),
        ("b.mov", Output(codec="prores_ks", pixel_format="yuv444p10le"), False),
        ("b.mkv", Output(codec="libvpx-vp9"), True),
        ("b.mov", Output(pixel_format="yuva444p10le"), True),
        ("b.mkv", Output(codec="libx265"), False),  # though it lists yuva420p
    ):
        media, _ = outputs.with_alpha(source, tmp_path / name, output)
        assert media.keep_alpha == kept, (name, output)
