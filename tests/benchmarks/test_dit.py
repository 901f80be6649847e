"""The transformer's benchmark at its smallest."""

import json

import pytest
from small_model import SMALLEST_DIT

from benchmarks import dit
from skipsr_jax.errors import UserError

SMALL = "dit --models=tiny --clips=5x32x48 --skips=0.5,0 --dtype=float32 --repeats=1"


@pytest.mark.slow
def test_skipped_and_dense_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setitem(dit.DIT_PRESETS, "tiny", SMALLEST_DIT)
    out = tmp_path / "dit.json"
    assert dit.main([*SMALL.split(), "--ceiling_side=64", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    skipped, dense = found["rows"]
    assert dense["case"].startswith("tiny 5x32x48, 0 %")
    assert dense["tokens"] == 2 * 2 * 3 == 2 * skipped["tokens"]
    for row in (skipped, dense):
        assert row["tflops"] == pytest.approx(row["tflop"] / row["seconds"])
        of_ceiling = 100 * row["tflops"] / found["matmul_ceiling_tflops"]
        assert row["of_ceiling_percent"] == pytest.approx(of_ceiling)
        assert row["program_gib"] > 0
    assert skipped["tflop"] < dense["tflop"]


@pytest.mark.parametrize("clip", ["5x32", "5x32x0", "5,32,48"])
def test_clips_and_models_that_there_are_not(clip):
    with pytest.raises(UserError, match=r"--clips: '.*' is not frames x height x width"):
        dit.main(["dit", f"--clips={clip}"])
    with pytest.raises(UserError, match="--models"):
        dit.main(["dit", "--models=none"])
    with pytest.raises(UserError, match=r"--precisions: .*fp4.* are not among bf16, fp8, int8"):
        dit.main(["dit", "--precisions=fp8,fp4"])
