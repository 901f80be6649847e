"""The benchmark of the file's encoder at a tiny size."""

import json
from fractions import Fraction

import numpy as np
import pytest

from benchmarks import encoding
from skipsr_jax.errors import UserError
from skipsr_jax.media.video_writer import VideoWriter


def test_a_row_for_each_depth_and_preset(tmp_path, capsys):
    with VideoWriter(tmp_path / "a.mkv", height=48, width=80, rate=Fraction(24)) as writer:
        for value in (0, 100, 200):
            writer.write(np.full((48, 80, 3), value, np.uint8))
    arguments = (f"--clip={tmp_path}/a.mkv", "--frames=5", f"--out={tmp_path}/out.json")
    assert encoding.main(["encoding", *arguments, "--presets=,ultrafast"]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["bits"], row["preset"]) for row in rows] == [
        (8, "default"), (8, "ultrafast"), (10, "default"), (10, "ultrafast")
    ]  # fmt: skip
    assert all(row["frames_per_second"] > 0 for row in rows)
    assert "frames_per_second" in capsys.readouterr().out


def test_bits_that_cannot_be_written_are_refused():
    with pytest.raises(UserError, match="choose 8, 10 or both"):
        encoding.main(["encoding", "--clip=a.mkv", "--depths=9"])
