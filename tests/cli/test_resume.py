"""A long clip goes on where a run was stopped, and comes to the same frames and audio."""

import json
import pathlib
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import small_model
from faults.harness import disk_refusal
from media_clips import write_tone

from skipsr_jax.cli import infer
from skipsr_jax.inference.job_output import SegmentedOutput

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEP = 4  # frames of a segment, which is one chunk


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_model.write_small_model(tmp_path_factory.mktemp("resume") / "model")


def make_clip(path, frames):
    """20 x 28 with audio: smooth on the left, noise on the right."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 28, 20, "yuv444p"
        sound = container.add_stream("aac", rate=48000)
        for index in range(frames):
            frame = np.full((20, 28, 3), 90 + index, np.uint8)
            frame[:, 16:] = rng.integers(0, 255, (20, 12, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        write_tone(container, sound, frames / 25)


def command(checkpoint, output, *more):
    return [f"--config.checkpoint={checkpoint}", "--config.size.factor=2", "--input=clip.mp4",
            f"--output={output}", "--config.chunk.frames=5", "--config.chunk.overlap=1",
            "--config.mask.source=input", f"--config.output.segment_frames={STEP}",
            *more]  # fmt: skip


def content(path):
    """Each frame and each packet of the audio of a file, with its times."""
    with av.open(str(path)) as container:
        frames = [(f.pts, f.to_ndarray().tobytes()) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        packets = [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]
    return frames, packets


def finished():
    """What is on the disk of each finished segment."""
    found = {}
    for state in pathlib.Path().glob(".*.segments-*/state.json"):
        for number in range(len(json.loads(state.read_text())["frames"])):
            for name in ("packets", "mask.packets"):
                file = state.with_name(f"{number:06d}.{name}")
                found[file] = file.stat().st_ino, file.stat().st_mtime_ns
    return found


@pytest.mark.slow
def test_a_stopped_run_goes_on(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_clip("clip.mp4", 3 * STEP + 1)
    assert infer.main(["infer.py", *command(checkpoint, "whole.mp4", "--save_mask")]) == 0
    write, made = SegmentedOutput.write, []

    def stopped(output, codes, keep):
        made.append(keep)
        if len(made) == 2 * STEP + 2:
            raise KeyboardInterrupt
        write(output, codes, keep)

    monkeypatch.setattr(SegmentedOutput, "write", stopped)
    arguments = ["infer.py", *command(checkpoint, "big.mp4", "--save_mask")]
    assert infer.main(arguments) == 130
    assert not pathlib.Path("big.mp4").exists() and len(finished()) == 2 * 2
    capsys.readouterr()
    made[:] = [None] * 100
    assert infer.main(arguments) == 0
    assert len(made) == 100 + STEP + 1
    said = capsys.readouterr().out
    assert "goes on at frame 8" in said and "resumed    at frame 8" in said
    assert "28x20 -> 56x40, 13 frames" in said and "3 chunks padded" in said
    for name in ("", "_mask"):
        whole, resumed = content(f"whole{name}.mp4"), content(f"big{name}.mp4")
        assert len(whole[0]) == 13 and whole == resumed
    assert content("big.mp4")[1]
    assert list(pathlib.Path().glob(".*segments*")) == []


@pytest.mark.slow
def test_twelve_segments_killed_at_ten_moments(checkpoint, tmp_path, monkeypatch):
    """And no finished segment is done again."""
    monkeypatch.chdir(tmp_path)
    make_clip("clip.mp4", 12 * STEP + 1)
    cache = f"--compile_cache_dir={tmp_path / 'cache'}"
    program = [sys.executable, str(ROOT / "infer.py")]
    whole = [*program, *command(checkpoint, "whole.mp4", "--save_mask", cache)]
    subprocess.run(whole, check=True, capture_output=True)
    resumed = [*program, *command(checkpoint, "big.mp4", "--save_mask", cache)]
    names = ("packets", "keep.npz", "tail.npz", "mask.packets", "packets")
    moments = [f".big.segments-*/{n:06d}.{names[n % 5]}" for n in range(1, 11)]
    before = {}
    for moment in moments:
        process = subprocess.Popen(resumed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and not list(tmp_path.glob(moment)):
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -9, process.stderr.read().decode()
        process.stderr.close()
        assert not pathlib.Path("big.mp4").exists()
        after = finished()
        assert before.items() <= after.items()
        before = after
    assert len(before) >= 2 * 9
    done = subprocess.run(resumed, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("", "_mask"):
        assert content(f"whole{name}.mp4") == content(f"big{name}.mp4")
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".")} == {".skipsr_done.jsonl"}


@pytest.mark.slow
def test_a_full_disk_in_the_middle(checkpoint, tmp_path, monkeypatch):
    """The same command on a disk that grows; it is full in segments, and when they are joined."""
    if disk_refusal():
        pytest.skip(f"no small file system can be mounted here: {disk_refusal()}")
    monkeypatch.chdir(tmp_path)
    make_clip("clip.mp4", 8 * STEP + 1)
    arguments = command(checkpoint, "big.mp4", f"--compile_cache_dir={tmp_path / 'cache'}")
    arguments.remove("--input=clip.mp4")  # it lies on another disk
    program = [sys.executable, str(ROOT / "infer.py"), *arguments, f"--input={tmp_path}/clip.mp4"]
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")

    def on_disks(keep, *kilobytes):
        pathlib.Path("disk").mkdir(exist_ok=True)
        sizes = ",".join(map(str, kilobytes))
        script = ROOT / "tests" / "faults" / "growing_disk.py"
        done = subprocess.run([sys.executable, script, tmp_path / "disk", tmp_path / keep, sizes,
                               *program], capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    (whole,) = on_disks("whole", 2**18)
    assert whole["status"] == 0, whole["stderr"]
    need = sum(size for size, _, _ in whole["files"].values()) // 1024 + 4
    *full, last = on_disks("grown", need // 2, need, 3 * need // 2, 2 * need, 5 * need // 2, 2**18)
    before, counts = {}, []
    for run in full:
        assert run["status"] == 1 and run["stderr"].count("\n") == 1, run["stderr"]
        assert "No space left on device" in run["stderr"]
        after = {name: facts for name, facts in run["files"].items() if "packets" in name}
        assert before.items() <= after.items()  # what is finished is never made again
        assert "big.mp4" not in run["files"]
        before = after
        counts.append(len(after))
    assert counts[0] == 0 and len(set(counts)) > 2 and counts[-1] == 8, counts
    assert last["status"] == 0 and last["stderr"] == "", last["stderr"]
    assert set(last["files"]) == {"big.mp4", ".skipsr_done.jsonl"}
    assert content("whole/big.mp4") == content("grown/big.mp4")
