"""The benchmark of the mask predictor at its smallest."""

import json

import pytest

from benchmarks import predictor


def test_a_row_for_each_clip_and_factor(tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--clips=5x32x32", "--factors=4,2", "--repeats=1", "--dtype=float32"]
    assert predictor.main(["", *arguments, f"--out={out}"]) == 0
    four, two = json.loads(out.read_text())["rows"]
    assert (four["factor"], two["factor"]) == (4, 2)
    assert min(four["seconds"], four["device_s"], two["seconds"]) > 0
    # The filters run on four times as many pixels, the layers on as many cells.
    filters = 2 * 5 * 5 * 3 * 64 * (8 * 8) * 8 / 1e12
    assert two["tflop"] - four["tflop"] == pytest.approx(3 * filters, rel=0.5)
