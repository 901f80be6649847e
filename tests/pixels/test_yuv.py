"""Codes made on the device equal those made on the host, and PyAV's, within one code value."""

import itertools

import av
import numpy as np
import pytest

from skipsr_jax.media.colour import ColourTags, from_rgb, planes_of
from skipsr_jax.media.yuv_format import PIXEL_FORMATS, has_alpha, yuv_format
from skipsr_jax.pixels.yuv import rgb_codes, rgb_to_yuv

MATRICES = (1, 6, 9)  # BT.709, BT.601, BT.2020


def difference(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return np.abs(ours.astype(int) - theirs.astype(int))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    "pixel_format", sorted(name for name in PIXEL_FORMATS if not has_alpha(name))
)
def test_planes_equal_those_of_the_host(pixel_format, matrix, full_range):
    rgb = np.random.default_rng(0).integers(0, 256, (34, 46, 3), np.uint8)
    want = from_rgb(rgb, ColourTags(matrix=matrix, full_range=full_range), pixel_format)
    unit = np.float32(rgb[None] / 255)
    got = rgb_to_yuv(unit, yuv_format(pixel_format, matrix, full_range))
    for ours, theirs in zip(got, planes_of(want), strict=True):
        assert difference(np.asarray(ours)[0], theirs).max() <= 1


def smooth(height, width):
    """Slow waves of all colours: chroma that every resampling filter halves alike."""
    rows, columns = np.mgrid[:height, :width]
    waves = ((31, 43, 0), (57, 29, 2), (41, 61, 4))
    channels = [np.sin(rows / a + columns / b + c) for a, b, c in waves]
    return np.rint((0.5 + 0.45 * np.stack(channels, -1)) * 255).astype(np.uint8)


def by_pyav(rgb, pixel_format, matrix, full_range):
    """The frame as swscale converts it, with the chroma site stated: its default is another."""
    graph, frame = av.filter.Graph(), av.VideoFrame.from_ndarray(rgb, format="rgb24")
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=1
    )
    name, reach = {1: "bt709", 6: "bt601", 9: "bt2020"}[matrix], "pc" if full_range else "tv"
    flags = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    options = f"out_color_matrix={name}:out_range={reach}:out_chroma_loc=left:flags={flags}"
    chain = [source, graph.add("scale", options), graph.add("format", f"pix_fmts={pixel_format}")]
    chain.append(graph.add("buffersink"))
    for before, after in itertools.pairwise(chain):
        before.link_to(after)
    graph.configure()
    frame.pts = 0
    graph.push(frame)
    return graph.pull()


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    ("size", "pixel_format"),
    [
        ((64, 96), "yuv420p"),
        ((64, 96), "yuv420p10le"),
        ((65, 97), "yuv444p"),  # what frames with an odd side are written as
        ((63, 96), "yuv444p10le"),
    ],
)
def test_planes_equal_those_of_pyav(pixel_format, size, matrix, full_range):
    rgb = smooth(*size)
    theirs = by_pyav(rgb, pixel_format, matrix, full_range)
    ours = rgb_to_yuv(np.float32(rgb[None] / 255), yuv_format(pixel_format, matrix, full_range))
    # swscale's full-range chroma is half a code too low on average (H.273 gives 2^(n-1) for grey).
    bias = 0.5 if full_range else 0
    for plane, (mine, other) in enumerate(zip(ours, planes_of(theirs), strict=True)):
        error = difference(np.asarray(mine)[0], other)
        assert error.max() <= (1 if plane == 0 or not bias else 2)
        assert abs((np.asarray(mine)[0].astype(int) - other).mean()) < bias + 0.25


def test_values_outside_the_range_are_cut():
    frames = np.array([[[[-1.0, -1, -1], [2, 2, 2]]]], np.float32)
    luma, *_ = rgb_to_yuv(frames, yuv_format("yuv444p", 1, True))
    np.testing.assert_array_equal(np.asarray(luma)[0], [[0, 255]])


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_rgb_codes_round_to_the_nearest(bits, kind):
    top = np.iinfo(kind).max
    values = np.float32([0, 0.25 / top, 0.75 / top, 1, 1.5]).reshape(1, 1, 5, 1).repeat(3, -1)
    codes = np.asarray(rgb_codes(values, bits))
    assert codes.dtype == kind
    np.testing.assert_array_equal(codes[0, 0, :, 0], [0, 0, 1, top, top])
