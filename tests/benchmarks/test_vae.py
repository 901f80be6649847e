import json

import pytest

from benchmarks import vae


@pytest.mark.slow
def test_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "vae.json"
    arguments = (
        "vae --model=tiny --height=16 --width=32 --frames=1 --tiles=1 --repeats=1 --dtype=float32"
    )
    assert vae.main([*arguments.split(), f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    assert [row["frames"] for row in found["rows"]] == [1]
    assert all(row["encode_seconds"] > 0 and row["decode_seconds"] > 0 for row in found["rows"])
    said = capsys.readouterr().out
    assert "decode_seconds" in said and "estimated peak" in said
    assert found["tiles"] == 1 and 0 < found["estimated_gib"] < 0.1


@pytest.mark.slow
def test_measures_a_light_coder_of_given_channels(tmp_path):
    out = tmp_path / "light.json"
    arguments = (
        "vae --coder=light --model=tiny --channels=8,8,16 --height=16 --width=32 --frames=5 "
        "--slice_latents=2 --repeats=1 --dtype=float32"
    )
    assert vae.main([*arguments.split(), f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    assert found["config"]["decoder_channels"] == [8, 8, 16] and found["coder"] == "light"
    assert found["estimated_gib"] is None
