"""The table of TPU slices: a real compile of the tiny model, and what happens when nothing fits."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from benchmarks import tpu_aot
from benchmarks.hlo import Moved
from skipsr_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "--config=" + str(ROOT / "configs" / "tiny_sr.py")

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: requirements-test.txt"
)


@pytest.mark.tpu_aot
@needs_libtpu
def test_the_tiny_model_compiles_for_four_chips_with_the_tpu_kernel(tmp_path):
    out = tmp_path / "rows.json"
    arguments = [
        CONFIG, "--topology=v5e:2x2", "--config.mesh.data=1", "--config.mesh.fsdp=2",
        "--config.mesh.seq=2", "--frames=5", "--height=64", "--width=64", "--skip=0.5",
        f"--out={out}",
    ]  # fmt: skip
    # A process of its own: libtpu reads its environment when it is loaded.
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.tpu_aot", *arguments],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "| refine | tiny | v5e:2x2 | 1, 2, 2 |" in ran.stdout
    (row,) = json.loads(out.read_text())["rows"]
    assert row["attention"] == "pallas_tpu"
    assert row["chips"] == 4 and row["clips"] == 2 and row["tokens"] == 16
    assert row["fits"] and 0 < row["peak_bytes"] < row["hbm_bytes"]
    assert row["moved"]["open_loops"] == []
    # Heads and tokens are exchanged four times a layer, once for q, k and v together.
    kinds = row["moved"]["collectives"]
    assert kinds["all-to-all"]["count"] >= 2 * 4
    assert kinds["all-gather"]["bytes"] > 0
    assert row["flops"] > 0 and row["step_seconds"] > 0


@pytest.mark.tpu_aot
@needs_libtpu
def test_a_mesh_may_split_the_axes_of_a_torus():
    lines = [
        "from benchmarks.tpu_aot import devices_of, use_compiler_only",
        "from skipsr_jax.parallel.mesh import make_mesh",
        "use_compiler_only()",
        "for name in ('v6e:16x16', 'v5e:16x16', 'v5p:4x4x8'):",
        "    mesh = make_mesh(1, -1, 4, devices_of(name))",
        "    print(len(set(mesh.devices.flat)), mesh.devices.shape)",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    expected = ["256 (1, 64, 4)", "256 (1, 64, 4)", "128 (1, 32, 4)"]
    assert ran.stdout.splitlines() == expected


def a_row(fits, topology="v5e:2x2", mesh=None, **changes):
    row = tpu_aot.Row(
        program="refine", model="tiny", topology=topology, chips=4,
        mesh=mesh or {"data": 1, "fsdp": 4, "seq": 1}, clips=4, tokens=64, skip=0.0,
        precision="bf16", coder="", attention="xla", compile_seconds=1.0, fits=fits,
        peak_bytes=4e10, hbm_bytes=1.6e10,
    )  # fmt: skip
    if fits:
        row = dataclasses.replace(
            row, peak_bytes=1e9, moved=Moved({}, 1e9, ()), flops=1e12, compute_seconds=0.2,
            memory_seconds=0.3, overlapped_seconds=0.1, waiting_seconds=0.05,
        )  # fmt: skip
    return dataclasses.replace(row, **changes)


@pytest.fixture
def compiled(monkeypatch):
    """Slices of this host's devices; programs fit on eight chips and more."""
    seen = []

    def compile_row(name, settings, topology, mesh, clip, options):
        seen.append((name, topology, clip.skip, settings.data.batch))
        return a_row(mesh.size >= 8, topology, dict(mesh.shape), program=name, skip=clip.skip)

    def devices_of(topology, slices=1):
        return jax.devices()[: {"2x2": 4, "2x4": 8}[topology.split(":")[1]]]

    monkeypatch.setattr(tpu_aot, "compile_row", compile_row)
    monkeypatch.setattr(tpu_aot, "devices_of", devices_of)
    return seen


def test_what_does_not_fit_ends_with_one_line(compiled, tmp_path):
    out = tmp_path / "rows.json"
    arguments = ["tpu_aot", CONFIG, "--topology=v5e:2x2", "--programs=refine,train"]
    with pytest.raises(UserError) as error:
        tpu_aot.main([*arguments, f"--out={out}"])
    assert str(error.value) == (
        "refine of tiny does not fit v5e:2x2: it needs 40.0 GB of a chip's 16.0 GB; take "
        "more chips, or more of them along mesh.seq or mesh.fsdp"
    )
    assert json.loads(out.read_text())["rows"][0]["flops"] is None
    assert len(compiled) == 1  # nothing is compiled after that


def test_the_smallest_slice_is_found(compiled, capsys):
    arguments = ["tpu_aot", CONFIG, "--topology=v5e", "--smallest", "--programs=refine,train"]
    assert tpu_aot.main(arguments) == 0
    assert "the smallest slice: v5e:2x4" in capsys.readouterr().out
    assert [entry[:3] for entry in compiled] == [
        ("refine", "v5e:2x2", 0.0),
        ("refine", "v5e:2x4", 0.0),
        ("refine", "v5e:2x4", 0.4),
        ("train", "v5e:2x4", 0.0),
    ]
    assert compiled[-1][3] == 2  # four heads: four chips share a clip, two clips a step


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--topology=v7x:2x2"], "unknown chip 'v7x'"),
        ([], "--topology is missing"),
        (["--topology=v5e:2x2", "--programs=sing"], "unknown program 'sing'"),
        (["--topology=v5e:2x2", "--skip=1"], "skip is 1.0"),
        (["--topology=v5e:2x2", "--skip=some"], "--skip=some"),
        (["--topology=v5e:2x2", "--config.mesh.data=3"], "does not use the 4 devices"),
    ],
)
def test_mistakes_are_named(compiled, arguments, expected):
    with pytest.raises(UserError, match=expected):
        tpu_aot.main(["tpu_aot", CONFIG, *arguments])


@pytest.mark.parametrize(
    "said",
    [
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.50G of "
        "15.75G hbm. Exceeded hbm capacity by 2.75G.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (18.50G) exceeds "
        "available HBM (15.75G).",
    ],
)
def test_the_compiler_says_what_is_missing(said):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: " + said)
    assert tpu_aot._out_of_memory(error) == (18.5 * 2**30, 15.75 * 2**30)


def test_other_errors_are_not_about_room():
    assert tpu_aot._out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: nothing")) is None


def test_links_that_are_waited_for_add_to_a_step():
    assert a_row(True).step_seconds == pytest.approx(0.35)
    assert a_row(True, overlapped_seconds=0.5).step_seconds == pytest.approx(0.55)
