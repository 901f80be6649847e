"""Colours do not shift: RGB from a clip and YUV back agree with the definition of the matrices."""

import itertools

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from media_clips import yuv_frame

from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import ColourTags, apply_tags, from_rgb, tags_of, to_rgb
from skipsr_jax.media.frame_filter import FrameFilter

CASES = list(itertools.product((1, 6, 9), (False, True), (8, 10)))


@pytest.mark.parametrize(("matrix", "full_range", "bits"), CASES)
def test_both_directions_follow_the_matrix(matrix, full_range, bits):
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pixel_format = "yuv444p" if bits == 8 else "yuv444p10le"
    reference = yuv_frame(rgb, pixel_format, matrix, full_range)
    tags = tags_of(reference)
    assert (tags.matrix, tags.full_range) == (matrix, full_range)

    back = to_rgb(reference, tags, VideoReformatter())
    assert back.dtype == (np.uint8 if bits == 8 else np.uint16)
    error = (back / np.iinfo(back.dtype).max - rgb / 255) * 255
    assert abs(error.mean(axis=(0, 1))).max() < 0.06
    assert abs(error).max() < 2.6

    written = from_rgb(rgb, tags, pixel_format)
    assert (written.colorspace, written.color_range) == (matrix, 2 if full_range else 1)
    for ours, theirs in zip(written.planes, reference.planes, strict=True):
        kind = np.uint8 if bits == 8 else np.uint16
        difference = np.frombuffer(ours, kind).astype(int) - np.frombuffer(theirs, kind)
        assert abs(difference).max() <= 1 and abs(difference).mean() < 0.01


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_chroma_stays_in_place_through_a_file(tmp_path, codec, full_range):
    """A red to blue ramp: chroma sited half a pixel off would shift it by 1.5 codes."""
    ramp = np.zeros((32, 128, 3), np.uint8)
    ramp[..., 0], ramp[..., 2] = 60 + np.arange(128), 60 + np.arange(128)[::-1]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        options = {"crf": "1", "b": "0"} | (
            {"x265-params": "log-level=none"} if "265" in codec else {}
        )
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 32, "yuv420p"
        tags = ColourTags(full_range=full_range)
        apply_tags(stream.codec_context, tags)
        container.mux(stream.encode(from_rgb(ramp, tags, "yuv420p")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mkv")) as container:
        name = container.streams.video[0].codec_context.codec.canonical_name
        frame = FrameFilter(name)(next(container.decode(video=0)))
    assert tags_of(frame) == tags
    error = (to_rgb(frame, tags, VideoReformatter()).astype(float) - ramp)[:, 4:-4]
    assert abs(error.mean(axis=(0, 1))).max() < 0.4


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize(("top", "depth"), [(255, np.uint8), (65535, np.uint16)])
def test_black_grey_and_white_stay_what_they_are(pixel_format, top, depth):
    tags = ColourTags()
    for level in (0, top // 2, top):
        flat = np.full((16, 16, 3), level, depth)
        back = to_rgb(from_rgb(flat, tags, pixel_format), tags, VideoReformatter())
        assert abs(back / np.iinfo(back.dtype).max - level / top).max() < 1.01 / 255


@pytest.mark.parametrize(("size", "matrix"), [((480, 640), 6), ((720, 1280), 1)])
def test_an_untagged_clip_gets_the_matrix_of_its_size(size, matrix):
    frame = av.VideoFrame(size[1], size[0], "yuv420p")
    assert frame.colorspace == 2
    assert tags_of(frame).matrix == matrix


def test_unknown_matrix_is_refused():
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace = 8  # YCgCo
    with pytest.raises(UserError, match="matrix 8"):
        tags_of(frame)
