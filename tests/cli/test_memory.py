"""The memory of infer.py does not grow with the length of a clip."""

import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
import small_model

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_clip(path, frames):
    """A clip of 64x48 pixels that moves."""
    picture = np.random.default_rng(0).integers(0, 255, (12, 40, 3), np.uint8)
    picture = picture.repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            left = index // 3 % 96
            frame = np.ascontiguousarray(picture[:, left : left + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


def peak_memory(clip, checkpoint, cache):
    """The largest resident memory of infer.py, in the system's unit."""
    command = [
        sys.executable, ROOT / "infer.py", f"--input={clip}", f"--config.checkpoint={checkpoint}",
        "--config.mask.source=input", "--config.size.factor=1", f"--compile_cache_dir={cache}",
        f"--output={clip}.out.mp4", "--overwrite",
    ]  # fmt: skip
    without = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    env = {k: v for k, v in os.environ.items() if k not in without} | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not count memory so")
def test_ten_times_the_frames_take_the_memory_of_one(tmp_path):
    checkpoint = small_model.write_small_model(tmp_path / "model")
    for frames in (330, 3300):
        write_clip(tmp_path / f"{frames}.mp4", frames)
    peaks = [
        peak_memory(tmp_path / f"{frames}.mp4", checkpoint, tmp_path / "cache")
        for frames in (3300, 330, 3300)  # the first compiles, which takes more
    ]
    assert peaks[2] <= 1.1 * peaks[1]
