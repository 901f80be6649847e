"""Lossy coding in memory: sizes, order and colours hold, quality decides the loss."""

import os
import subprocess
import sys

import numpy as np
import pytest

from skipsr_jax.data.degradation.compression import VIDEO_CODECS, compress, jpeg


def clip(frames, height, width):
    """A grey-red gradient that brightens by 9 a frame, with a fine pattern."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([60 + 2 * x % 90, 40 + y, 80 + 20 * ((x + y) % 2)], -1)
    return np.stack([base + 9 * i for i in range(frames)]).clip(0, 255).astype(np.uint8)


def loss(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("codec", VIDEO_CODECS)
@pytest.mark.parametrize("shape", [(9, 36, 50), (1, 33, 47), (5, 12, 16)])
def test_clips_keep_their_shape_order_and_colour(codec, shape):
    frames = clip(*shape)
    got = compress(frames, codec, 6)
    assert got.shape == frames.shape and got.dtype == np.uint8
    means = got.mean((1, 2)) - frames.mean((1, 2))  # frames in a wrong order are 9 apart
    assert np.abs(means).max() < 3.5
    np.testing.assert_array_equal(got, compress(frames, codec, 6))


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_a_worse_quality_loses_more(codec):
    frames = clip(5, 48, 64)
    good, bad = (loss(compress(frames, codec, q), frames) for q in (4, 31))
    assert 0 < good < bad - 0.3


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_hard_clips_are_coded_alike_each_time(codec):
    rng = np.random.default_rng(0)
    clips = (rng.integers(0, 255, (5, 16, 24, 3), np.uint8), 25), (clip(9, 36, 50), 6)
    wanted = [compress(frames, codec, quality) for frames, quality in clips]
    for _ in range(12):
        for (frames, quality), want in zip(clips, wanted, strict=True):
            # memory that is not zeros when it is used again
            junk = [rng.integers(0, 255, size, np.uint8) for size in rng.integers(1000, 70000, 20)]
            del junk
            np.testing.assert_array_equal(compress(frames, codec, quality), want)


def test_jpeg_works_on_each_frame_alone():
    frames = clip(3, 33, 47)
    got = jpeg(frames, 60)
    assert got.shape == frames.shape
    np.testing.assert_array_equal(got[1], jpeg(frames[1:2], 60)[0])
    assert 0 < loss(jpeg(frames, 95), frames) < loss(got, frames) < loss(jpeg(frames, 5), frames)


def test_qualities_outside_the_codec_are_refused():
    with pytest.raises(ValueError, match="1 to 31"):
        compress(clip(1, 32, 32), "mpeg4", 40)
    with pytest.raises(ValueError, match="0 to 51"):
        compress(clip(1, 32, 32), "h264", 60)


SMALL_CLIPS = """
import numpy as np
from skipsr_jax.data.degradation.compression import VIDEO_CODECS, compress
rng = np.random.default_rng(0)
for width in (34, 40, 48):
    for _ in range(40):
        coarse = rng.integers(10, 246, (17, 16, width // 4 + 1, 3))
        frames = np.kron(coarse, np.ones((1, 4, 4, 1), int))[:, :, :width]
        frames = (frames + rng.integers(-10, 10, frames.shape)).astype(np.uint8)
        for codec in VIDEO_CODECS:
            compress(frames, codec, int(rng.integers(12, 30)))
"""


def test_no_encoder_writes_beyond_its_memory():
    checked = os.environ | {"MALLOC_CHECK_": "3"}  # glibc ends a process whose heap is damaged
    command = [sys.executable, "-c", SMALL_CLIPS]
    done = subprocess.run(command, env=checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
