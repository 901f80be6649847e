import itertools
import json

import numpy as np
import pytest

from benchmarks import attention, attention_runs, attention_tpu, chips
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.attention.tpu.stream import Blocks

GRID = (26, 45, 80)  # 720p, 101 frames
TINY = "attention --grid=3,6,8 --text=5 --heads=2 --head_dim=16 --dtype=float32 --shapes=ragged"


@pytest.mark.parametrize(
    ("shape", "windows", "rows", "tera"),
    [("regular", 36, 95_688, 2.649), ("shifted", 80, 98_240, 1.771)],
)
def test_the_shapes_are_those_of_seedvr(shape, windows, rows, tera):
    lengths = attention.window_lengths(shape, GRID, 58)
    assert (len(lengths), lengths.sum()) == (windows, rows)
    work = attention.useful_operations(lengths, 20, 128, attention.FORWARD)
    assert work / 1e12 == pytest.approx(tera, abs=1e-3)


def test_ragged_windows_keep_some_of_their_tokens():
    regular, ragged = (attention.window_lengths(s, GRID, 58) - 58 for s in ("regular", "ragged"))
    share = ragged / regular
    assert (share > 0.39).all() and (share < 0.81).all()
    assert len(set(ragged)) > len(ragged) / 2


def test_times_what_runs_here_and_writes_json(tmp_path, capsys):
    out = tmp_path / "attention.json"
    arguments = f"{TINY} --ceiling_side=64 --repeats=1 --without=cudnn --out={out}"
    assert attention.main(arguments.split()) == 0
    found = json.loads(out.read_text())
    rows = {row["implementation"]: row for row in found["rows"]}
    assert rows["xla"]["out_error"] < 1e-5 and rows["xla"]["gradient_error"] < 1e-5
    assert rows["xla"]["both_ms"] > 0 and rows["xla"]["forward_tflops"] > 0
    assert 0 < rows["xla"]["both_queued_ms"] < 20 * rows["xla"]["both_ms"]
    assert set(rows) | set(found["not_run"]) == {*attention.IMPLEMENTATIONS, "torch varlen"}
    assert found["not_run"]["cudnn"] == "left out by --without"
    printed = capsys.readouterr().out
    assert all(reason in printed for reason in found["not_run"].values())


def test_one_wrong_window_shows_as_the_error():
    want, bounds = np.ones((6, 2, 4), np.float32), np.array([0, 1, 4, 6])
    assert attention.worst_error(want, want, bounds) == 0
    wrong = want.copy()
    wrong[1:4] *= 1.5
    assert attention.worst_error(wrong, want, bounds) == pytest.approx(0.5)
    wrong[5, 0, 0] = np.nan
    assert np.isnan(attention.worst_error(wrong, want, bounds))


def test_counted_work_is_what_the_ranges_visit(monkeypatch):
    blocks = Blocks(16, 8, 4)
    monkeypatch.setattr(attention_tpu, "blocks_for", lambda rows: blocks)
    lengths = np.array([3, 21, 1, 30])
    bounds = list(itertools.pairwise(np.cumsum([0, *lengths])))
    pairs = 0
    for part in range(0, 64, blocks.part):
        seen = [(a, b) for a, b in bounds if a < part + blocks.part and b > part]
        if seen:
            pairs += blocks.part * (-(-seen[-1][1] // 4) * 4 - seen[0][0] // 4 * 4)
    work = attention_tpu.own_work(lengths, heads=3)
    assert work["forward"].operations == 4 * 128 * 3 * pairs
    assert work["backward"].operations == 14 * 128 * 3 * pairs


def test_time_is_the_larger_of_compute_and_memory():
    chip, cores = attention_tpu.chip_facts("v5p")
    assert cores == 2
    compute = attention_tpu.Work(chip.bf16_ops_per_second, 0)
    memory = attention_tpu.Work(0, 3 * chip.mem_bw_bytes_per_second)
    assert compute.milliseconds(chip, cores) == pytest.approx(500)
    assert memory.milliseconds(chip, cores) == pytest.approx(1500)


def test_the_tpu_table_compares_with_splash(monkeypatch, tmp_path, capsys):
    """Compiling is checked with the kernels; here it is left out."""
    compiled = []

    def compile_pass(run, rows, heads, segments, chip):
        compiled.append((run.__name__, chip))
        return {"forward_compile_s": 0.0}

    monkeypatch.setattr(attention_tpu, "compile_pass", compile_pass)
    out = tmp_path / "tpu.json"
    assert attention.main(["attention", "--tpu", "--shapes=regular", f"--out={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(compiled) == len(rows) == 6
    for ours, splash in zip(rows[::2], rows[1::2], strict=True):
        assert (ours["kernel"], splash["kernel"]) == ("pallas_tpu", "splash")
        assert ours["visited_of_useful"] < 1.5 < 30 < splash["visited_of_useful"]
        assert ours["forward_ms"] * 20 < splash["forward_ms"]
    assert "not measurements" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--shapes=round", "unknown shape 'round'"),
        ("--grid=3,6", "three positive integers"),
        ("--grid=3,6,0", "three positive integers"),
        ("--without=flash", "flash is not among "),
    ],
)
def test_a_mistake_is_one_line(flag, message):
    with pytest.raises(UserError, match=message):
        attention.main([*TINY.split(), "--ceiling_side=64", flag])


def test_an_unknown_chip_is_refused():
    with pytest.raises(UserError, match="unknown chip 'v1'"):
        attention.main([*TINY.split(), "--tpu", "--chips=v1"])


def test_without_the_tpu_compiler_it_says_what_to_install(monkeypatch):
    def none_here(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(chips.topologies, "get_topology_desc", none_here)
    with pytest.raises(UserError, match="it needs libtpu"):
        attention_tpu.compile_pass(attention_tpu.own_pass, 256, 2, 3, "v5e")


def test_queued_calls_are_waited_for_once():
    numbers, waited = iter(range(10)), []
    runs = attention_runs.Runs(None, lambda: next(numbers), waited.append, None)
    runs.queued(runs.both, 4)
    assert waited == [3]
