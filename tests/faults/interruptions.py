"""Campaigns of full disks and of kill -9: what they leave, and what a further run makes of it."""

import dataclasses
import pathlib
import re

import numpy as np
from faults import inputs
from faults.campaigns import digest, emptied, infer_arguments
from faults.harness import Outcome, Programs, Row, files_below, signals_of
from media_clips import write_clip
from PIL import Image

from skipsr_jax.files import is_temporary

STEPS = 6
DISK_PROGRAMS = ("infer", "train", "convert", "export", "data")
KILLED_PROGRAMS = ("infer", "train")
_AMPLE = 256 * 1024  # kilobytes
_PAGE = 4  # kilobytes: the least that a tmpfs grows by


@dataclasses.dataclass(frozen=True)
class Job:
    """A command whose outputs lie below the folder in which it runs.

    Attributes:
      program: of `fork_server.PROGRAMS`.
      arguments: with relative paths for outputs alone.
      output: the path of the result; a folder for all but infer.
    """

    program: str
    arguments: list[str]
    output: str

    def run(self, programs: Programs, folder: pathlib.Path, **how: float) -> Outcome:
        """Runs it in ``folder``."""
        return programs.run(self.program, *self.arguments, folder=folder, **how)


def _train_arguments(pictures: pathlib.Path) -> list[str]:
    return [
        "--config=tiny_predictor", "--workdir=run", f"--config.data.root=('{pictures}',)",
        "--config.dtype=float32", "--config.data.cache=", "--config.data.workers=0",
        "--config.data.batch=2", "--config.data.frames=1", "--config.data.crop=(32,48)",
        "--config.data.image_batch=2", "--config.data.image_crop=(32,48)",
        f"--config.loop.steps={STEPS}",
        "--config.loop.max_seconds=0", "--config.loop.log_every=1", "--config.loop.save_every=2",
    ]  # fmt: skip


def job_of(programs: Programs, work: pathlib.Path, name: str) -> Job:
    """The command of a program, with sound inputs in ``work``."""
    source = emptied(work / "source")
    rng = np.random.default_rng(0)
    for letter in "abcd":
        noise = rng.integers(0, 255, (64, 96, 3), np.uint8)
        Image.fromarray(noise).save(source / f"{letter}.png")
    if name == "infer":
        clip = write_clip(work / "clip.mp4", frames=25, audio="aac")
        model = inputs.write_checkpoint(emptied(work / "model"))
        common = infer_arguments(model, work / "cache")
        arguments = [f"--input={clip}", "--output=out.mp4", "--config.output.crf=0", *common]
        return Job("infer", arguments, "out.mp4")
    if name == "convert":
        return Job(
            "convert", [f"--dit={inputs.write_official(work, 'pth')}", "--out=model"], "model"
        )
    if name == "data":
        return Job("data", [f"--source={source}", "--out=clips"], "clips")
    training = Job("train", _train_arguments(source), "run/checkpoints")
    if name == "train":
        return training
    outcome = training.run(programs, emptied(work / "trained"), limit=600)
    assert outcome.status == 0, outcome.stderr
    run = work / "trained" / "run"
    return Job("export", [f"--predictor={run}", "--out=model"], "model")


def full_disks(programs: Programs, work: pathlib.Path, name: str, sizes: int) -> Row:
    """A program on disks of ``sizes`` sizes, evenly from a twentieth of what it leaves to all.

    A run that fails leaves nothing; training leaves what it had saved, and the folder of the
    checkpoint that was cut off, which the next run removes. One that succeeds has left the files of
    a run with an ample disk.
    """
    job, row = job_of(programs, work, name), Row("full disk", name)
    outcome = job.run(programs, emptied(work / "disk"), disk=_AMPLE, limit=600)
    assert outcome.status == 0 and outcome.left, outcome.stderr
    right = _names(outcome.left)
    need = sum(-(-size // (1024 * _PAGE)) * _PAGE for size in outcome.left.values())
    for number in range(sizes):
        disk = max(_PAGE, round(need * (0.05 + 0.95 * number / max(1, sizes - 1))))
        outcome = job.run(programs, emptied(work / "disk"), disk=disk)
        left = outcome.left or {}
        if outcome.status == 0:
            wrong = [] if _names(left) == right else [f"other files: {_names(left)}"]
        elif name == "train":
            wrong = [path for path in left if is_temporary(pathlib.Path(path))]
        else:
            wrong = sorted(left)
        faults = [f"partial output: {', '.join(wrong[:3])}"] if wrong else []
        if outcome.status == 1 and not _names_the_disk(outcome.line):
            faults.append("silence: the line does not name the disk")
        end = "ended in one line" if outcome.status else "fitted"
        row.add(f"{name} on {disk} kB", end, outcome, faults)
    return row


def _names(files: dict[str, int]) -> list[str]:
    """The names of files without the random ones that checkpoints have."""
    return sorted({re.sub("[0-9a-f]{32}", "*", name) for name in files})


def _names_the_disk(line: str) -> bool:
    words = ("no space left", "disk", "full", "free", "enospc", "cannot write")
    return any(word in line.lower() for word in words)


def kills(programs: Programs, work: pathlib.Path, name: str, moments: int) -> Row:
    """kill -9 at moments spread evenly over a run, and the same command again.

    Nothing lies under the name of the result that is not complete, and the further run ends as one
    that was never killed, to the byte of the result or of the trained arrays.
    """
    job, row = job_of(programs, work, name), Row("kill -9", name)
    job.run(programs, emptied(work / "warm"), limit=600)
    outcome = job.run(programs, emptied(work / "whole"), limit=600)
    assert outcome.status == 0, outcome.stderr
    right, length = _result(work / "whole", job), outcome.seconds
    kept, folder = files_below(work / "whole"), work / "killed"
    for number in range(moments):
        moment = length * (number + 1) / (moments + 1)
        outcome = job.run(programs, emptied(folder), kill_after=moment)
        faults, end = _after_kill(programs, job, folder, right, kept, outcome)
        row.add(f"{name} after {moment:.2f} s", end, outcome, faults)
    return row


def _after_kill(
    programs: Programs,
    job: Job,
    folder: pathlib.Path,
    right: str,
    kept: list[str],
    outcome: Outcome,
) -> tuple[list[str], str]:
    """What is wrong after a kill and after the same command again, and how the killed run ended."""
    faults = []
    if job.program == "infer" and (folder / job.output).exists():
        faults += [] if _result(folder, job) == right else ["partial output: under its final name"]
    again = job.run(programs, folder)
    if again.status == 0:
        if _result(folder, job) != right:
            faults.append("wrong numbers: after the kill and a further run")
        if job.program == "infer" and files_below(folder) != kept:
            faults.append(f"partial output: {files_below(folder)} after a further run")
    else:
        faults.append(f"silence: the further run failed: {again.line}")
    faults += again.faults
    return faults, f"{signals_of(outcome.status)}, then done by a further run"


def _result(folder: pathlib.Path, job: Job) -> str:
    """A digest of the result."""
    if job.program == "infer":
        return (folder / job.output).read_bytes().hex()
    steps = [path for path in (folder / job.output).iterdir() if path.name == str(STEPS)]
    return digest(steps[0]) if steps else ""
