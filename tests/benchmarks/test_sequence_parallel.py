"""The benchmark of several devices at its smallest, on virtual ones."""

import json

import pytest
from small_model import SMALLEST_DIT

from benchmarks import sequence_parallel
from skipsr_jax.errors import UserError

SMALL = (
    "sequence_parallel --model=tiny --devices=2 --infer_frames=5 --frames=1 --height=48 --width=64 "
    "--dtype=float32 --steps=1"
)


@pytest.mark.slow
def test_two_devices_beside_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sequence_parallel.DIT_PRESETS, "tiny", SMALLEST_DIT)
    out = tmp_path / "scaling.json"
    assert sequence_parallel.main([*SMALL.split(), f"--out={out}"]) == 0
    dense, skipped, trained = json.loads(out.read_text())["rows"]
    assert dense["program"].startswith("infer seq=2, 24 tokens, 0% skipped")
    assert skipped["program"].startswith("infer seq=2, 14 tokens, 40% skipped")
    assert trained["program"].startswith("train fsdp=2, 2 packs")
    for row in (dense, skipped, trained):
        assert row["difference"] < 1e-4 and row["seconds_all"] > 0
        assert row["efficiency"] == pytest.approx(row["seconds_one"] / row["seconds_all"] / 2)
    assert trained["losses_all"][2] != trained["losses_all"][0]


def test_heads_that_do_not_divide():
    with pytest.raises(UserError, match="20 heads do not divide over a mesh of 8"):
        sequence_parallel.main(["sequence_parallel", "--devices=8"])
