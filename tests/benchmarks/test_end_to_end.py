"""The benchmark of the pipeline, on a clip of one frame."""

import json

import numpy as np
import pytest

from benchmarks import end_to_end
from skipsr_jax.errors import UserError


@pytest.mark.slow
def test_prints_a_table_and_writes_json(tmp_path, capsys):
    out, mask = tmp_path / "rows.json", tmp_path / "half.npy"
    keep = np.zeros((2, 4, 4), bool)
    keep[:, :, 0] = True
    np.save(mask, keep)
    arguments = "end_to_end --model=tiny --clips=1x32x32 --dtype=float32 --coding=dense,sparse"
    assert end_to_end.main([*arguments.split(), f"--masks={mask}", f"--out={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["coding"] for row in rows] == ["dense", "sparse"]
    for row in rows:
        assert row["case"] == "1x32x32, half, 50.0 % skipped" and row["kept"] == 2
        stages = [row[f"{stage}_s"] for stage in ("encode", "refine", "decode")]
        assert min(stages) > 0 and sum(stages) <= row["total_s"]
    assert "decode_s" in capsys.readouterr().out


def test_an_unknown_coding_is_refused():
    with pytest.raises(UserError, match="--coding=dense,none"):
        end_to_end.main(["", "--model=tiny", "--clips=1x32x32", "--coding=dense,none"])


def test_masks_are_cut_to_the_clip_or_left_out(tmp_path):
    values = end_to_end.define_flags()
    small, wrong = tmp_path / "small.npy", tmp_path / "wrong.npy"
    np.save(small, np.ones((1, 2, 3), bool))
    np.save(wrong, np.ones((1, 2, 3)))
    values(["", f"--masks={small}"])
    assert [m.shape for _, m in end_to_end.masks_of((1, 2, 2), values)] == [(1, 2, 2)]
    assert not list(end_to_end.masks_of((2, 2, 2), values))
    values(["", f"--masks={wrong}"])
    with pytest.raises(UserError, match="float64"):
        list(end_to_end.masks_of((1, 2, 2), values))
    values(["", "--masks=", "--skips=0.5,0"])
    assert [m.mean() for _, m in end_to_end.masks_of((2, 4, 4), values)] == [0.5, 1.0]
