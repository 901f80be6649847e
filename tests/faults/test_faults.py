"""Damaged files, full disks and kills: one line, no partial output, no wrong number.

The default tests damage files in this process, below the command lines. The slow ones run the
programs; ``SKIPSR_FAULTS=mutations,disks,kills`` sets their counts (``python tests/faults/run.py``
runs the counts of docs/reliability.md and prints its table.)
"""

import os
import random
import subprocess
import sys

import pytest
from faults import campaigns, inputs, interruptions
from faults.harness import HEADER, ROOT, Outcome, Programs, Row, disk_refusal, report
from faults.mutations import KINDS, mutated

from skipsr_jax.checkpoints import convert
from skipsr_jax.errors import UserError
from skipsr_jax.media.reader import open_media

MUTATIONS, DISKS, KILLS = map(int, os.environ.get("SKIPSR_FAULTS", "16,3,3").split(","))
QUICK = 12


@pytest.mark.parametrize("kind", [*inputs.VIDEOS, *inputs.PICTURES])
def test_damaged_media_are_read_or_refused_in_one_line(tmp_path, kind):
    for number in range(QUICK):
        for path in inputs.write_medium(tmp_path, kind):
            _, data = mutated(path.read_bytes(), f"quick {kind} {number}")
            path.write_bytes(data)
            try:
                media = open_media(path)
                shapes = {frame.shape for frame in media.frames()}
                assert shapes == {(media.height, media.width, 3)}
            except UserError as error:
                assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("kind", inputs.OFFICIAL)
def test_damaged_weights_are_converted_or_refused_in_one_line(tmp_path, kind, capsys):
    path = inputs.write_official(tmp_path, kind)
    sound = path.read_bytes()
    for number in range(QUICK // 3):
        path.write_bytes(mutated(sound, f"quick {kind} {number}")[1])
        out = tmp_path / f"out_{number}"
        status = convert.main(["convert", f"--dit={path}", f"--out={out}"])
        said = capsys.readouterr().err
        assert (status, said.count("\n"), out.exists()) in ((0, 0, True), (1, 1, False))
        assert not [left for left in tmp_path.iterdir() if "partial" in left.name]


def test_every_kind_of_damage_changes_a_file_and_can_be_repeated():
    data = random.Random(0).randbytes(2000)
    assert {mutated(data, str(seed))[0] for seed in range(200)} == {k.__name__ for k in KINDS}
    changed = [mutated(data, str(seed))[1] for seed in range(50)]
    assert changed == [mutated(data, str(seed))[1] for seed in range(50)]
    assert sum(each != data for each in changed) >= 48  # a byte may be set to what it was


def test_what_counts_as_a_fault():
    fine = Outcome(0, "done", "", 1.0, 2**20)
    assert fine.faults == []
    assert Outcome(1, "", "infer: no\n", 1.0, 1).faults == []
    assert Outcome(1, "", "", 1.0, 1).faults == ["silence"]
    assert Outcome(-9, "", "", 1.0, 1, killed=True).faults == []
    assert Outcome(-7, "", "", 1.0, 1).faults == ["crash"]
    assert Outcome(-9, "", "", 60.0, 3 * 2**30, hung=True).faults == ["hang", "memory"]
    trace = "Traceback (most recent call last):\nKeyError: 1\n"
    row = Row("damaged .x", "infer")
    row.add("1 (cut)", "refused in one line", Outcome(1, "", trace, 2.0, 2**30))
    row.add("2 (cut)", "upscaled", fine, ["partial output: []"])
    assert row.cases == 2 and row.counts == {"traceback": 1, "partial output": 1}
    assert report([row]).startswith(HEADER) and "damaged .x, 1 (cut): traceback" in report([row])


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    with Programs(tmp_path_factory.mktemp("said"), together=True) as programs:
        yield programs


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    with Programs(tmp_path_factory.mktemp("said")) as programs:
        yield programs


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(campaigns.MUTATED))
def test_damaged_files(together, tmp_path, kind):
    row = campaigns.MUTATED[kind](together, tmp_path / "work", kind, range(MUTATIONS))
    assert row.cases == MUTATIONS and not row.wrong, report([row])


@pytest.mark.slow
def test_files_that_once_ended_in_tracebacks(together, shared, tmp_path):
    """Every one has a result or a line, in one run over all of them."""
    source, out = shared / "faults" / "media", tmp_path / "out"
    model = inputs.write_checkpoint(tmp_path / "model")
    outcome = together.run(
        "infer", f"--input={source}", "--folder=files", f"--output={out}",
        *campaigns.infer_arguments(model, tmp_path / "cache"), folder=tmp_path, limit=600,
    )  # fmt: skip
    assert outcome.faults == []
    files = [path for path in source.iterdir() if path.is_file()]
    assert files
    for path in files:
        refused = any(
            path.name in line for line in outcome.stderr.splitlines() if "infer: " in line
        )
        assert bool(list(out.glob(f"{path.stem}_*"))) != refused, path.name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mp4", "png", "pth"])
def test_the_programs_as_a_user_starts_them(tmp_path, kind):
    write = inputs.write_official if kind == "pth" else inputs.write_medium
    write(tmp_path, kind)
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = tmp_path / ("model" if kind == "pth" else f"out.{kind}")
    program = ["-m", "skipsr_jax.checkpoints.convert", f"--dit={path}"]
    if kind != "pth":
        program = ["infer.py", f"--input={path}", "--compile_cache_dir=none"]
    done = subprocess.run(
        [sys.executable, *program, f"--out{'' if kind == 'pth' else 'put'}={out}"],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.count("\n") == 1 and str(path) in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", interruptions.DISK_PROGRAMS)
def test_full_disks(forked, tmp_path, program):
    if disk_refusal():
        pytest.skip(f"no small file system can be mounted here: {disk_refusal()}")
    row = interruptions.full_disks(forked, tmp_path / "work", program, DISKS)
    assert row.cases == DISKS and not row.wrong, report([row])


@pytest.mark.slow
@pytest.mark.parametrize("program", interruptions.KILLED_PROGRAMS)
def test_kills(forked, tmp_path, program):
    assert forked.threads == 1
    row = interruptions.kills(forked, tmp_path / "work", program, KILLS)
    assert row.cases == KILLS and not row.wrong, report([row])
