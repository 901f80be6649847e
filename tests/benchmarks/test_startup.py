"""The benchmark of the time to the first frame, which starts processes."""

import json

import pytest

from benchmarks import startup
from skipsr_jax.errors import UserError


@pytest.mark.slow
def test_the_second_start_finds_its_programs(tmp_path, capsys):
    out = tmp_path / "startup.json"
    arguments = "startup --model=tiny --clip=1x32x32 --dtype=float32"
    assert startup.main([*arguments.split(), f"--folder={tmp_path}", f"--out={out}"]) == 0
    alone, empty, filled = json.loads(out.read_text())["rows"]
    assert alone["loaded_s"] > 0 and alone["device_s"] > 0
    assert 0 < filled["first_frame_s"] < empty["first_frame_s"] < empty["process_s"]
    assert empty["read_s"] > 0 and empty["loaded_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["startup.json"]
    assert "loaded_s" in capsys.readouterr().out


def test_a_clip_whose_size_is_no_multiple_of_the_scale_is_refused():
    with pytest.raises(UserError, match="multiples of 4"):
        startup.main(["", "--model=tiny", "--clip=1x30x32"])


def test_the_last_line_of_a_failed_run_is_passed_on(tmp_path):
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match=r"status 1: infer\.py: .*clip"):
        startup.run_infer("tiny", tmp_path, tmp_path / "clip", tmp_path / "cache", 1.0)
