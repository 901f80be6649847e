"""The training step's benchmark at its smallest: real numbers, and compiling without arrays."""

import json

import pytest
from small_model import SMALLEST_DIT

from benchmarks import train_step

SMALL = "train_step --model=tiny --frames=5 --height=32 --width=48 --dtype=float32 --steps=1"


@pytest.mark.slow
def test_skipped_and_dense_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setitem(train_step.DIT_PRESETS, "tiny", SMALLEST_DIT)
    out = tmp_path / "step.json"
    assert train_step.main([*SMALL.split(), "--skip=0.5", "--packs=2", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    skipped, dense = found["rows"]
    assert (skipped["step"], dense["step"]) == ("skipped", "dense")
    assert dense["tokens"] == 2 * 2 * 2 * 3 == 2 * skipped["tokens"]
    assert skipped["tflop"] < dense["tflop"]
    assert skipped["seconds"] > 0 and skipped["mfu_percent"] is None
    # In float32 parameters, averages and two Adam moments, of the two texts too.
    assert found["state_gib"] * 2**30 == pytest.approx(16 * found["parameters"], rel=1e-3)


def test_the_3b_step_needs_no_arrays_to_be_described(tmp_path):
    values = train_step.define_flags()
    values(["train_step"])
    stage, vae = train_step.make_stage(values)
    batch = train_step.make_batch(values, vae, 0.4)
    assert batch.plan.valid.sum() == 0.6 * 21600
    assert batch.hr_latents[0].shape == batch.lr_latents[0].shape == (1, 6, 90, 160, 16)
    assert stage.frozen == {} and stage.prepare is None
    dense = train_step.operations(values, vae, train_step.make_batch(values, vae, 0.0))
    assert dense / 3e12 == pytest.approx(115, abs=1)  # forward and twice that, shared/BASELINE.md
