"""The benchmark from file to file at a tiny size."""

import json
import pathlib
from fractions import Fraction

import numpy as np
import pytest
import small_model

from benchmarks import file_to_file
from skipsr_jax.errors import UserError
from skipsr_jax.media.video_writer import VideoWriter


@pytest.mark.slow
def test_runs_and_stages_side_by_side(tmp_path, capsys):
    checkpoint = small_model.write_small_model(tmp_path / "model")
    with VideoWriter(tmp_path / "a.mkv", height=16, width=24, rate=Fraction(24)) as writer:
        for value in (0, 100, 200):
            writer.write(np.full((16, 24, 3), value, np.uint8))
    arguments = (f"--input={tmp_path}/a.mkv", f"--checkpoint={checkpoint}")
    out = pathlib.Path(tmp_path / "out.json")
    assert file_to_file.main(["file_to_file", *arguments, f"--out={out}"]) == 0
    facts = json.loads(out.read_text())
    assert [row["run"] for row in facts["rows"]] == [
        "infer.py, empty cache", "infer.py, filled cache",
        "reading alone", "loading alone", "pipeline alone", "writing alone",
    ]  # fmt: skip
    warm = "\n".join(facts["rows"][1]["printed"])
    assert "programs 0 compiled" in warm
    assert "times its slowest stage alone" in capsys.readouterr().out


def test_an_input_is_needed():
    with pytest.raises(UserError, match="--input is missing"):
        file_to_file.main(["file_to_file"])
