"""The benchmark of precision at its smallest."""

import dataclasses
import json
import pathlib

import pytest
from small_model import SMALLEST_DIT

from benchmarks import precision
from skipsr_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "parity" / "golden_small"


@pytest.mark.slow
def test_errors_of_each_precision(tmp_path, monkeypatch):
    monkeypatch.setitem(precision.DIT_PRESETS, "tiny", dataclasses.replace(SMALLEST_DIT, layers=2))
    out = tmp_path / "precision.json"
    small = "precision --model=tiny --layers=1 --grid=1,2,4 --skip=0 --dtype=float32"
    assert precision.main([*small.split(), f"--out={out}"]) == 0
    plain, fp8, int8 = json.loads(out.read_text())["rows"]
    assert [row["products"] for row in (plain, fp8, int8)] == ["float32", "fp8", "int8"]
    for name in ("hidden", "update", "velocity"):
        assert plain[name] < 1e-6 < int8[name] < fp8[name] < 0.2


def test_weights_in_the_official_layout():
    values = precision.define_flags()
    values(["precision", f"--weights={GOLDEN / 'A_dit_v2' / 'weights.safetensors'}"])
    config, params = precision.parameters(values)
    assert params["vid_in"]["kernel"].shape == (4 * config.in_channels, config.width)
    values(["precision", "--checkpoint=tiny"])
    with pytest.raises(UserError, match="two models"):
        precision.parameters(values)
