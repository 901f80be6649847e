"""The notebook of examples/ runs from its first cell to its last, and shows what it says."""

import ast
import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_quickstart_notebook_upscales_and_trains_a_predictor(monkeypatch, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="running a notebook needs the extra test")
    nbclient = pytest.importorskip("nbclient", reason="running a notebook needs the extra test")
    pytest.importorskip("ipykernel", reason="running a notebook needs the extra test")
    monkeypatch.setenv("XLA_FLAGS", "")  # as a user's: one device, optimised programs
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without results
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=1200, startup_timeout=300, kernel_name="python3", resources=where
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    said = "".join(output.get("text", "") for output in outputs)
    assert "stage predictor: 80 steps done" in said
    logged = [line.split(maxsplit=2)[2] for line in said.splitlines() if line.startswith("step ")]
    first, last = (ast.literal_eval(logged[i]) for i in (0, -1))
    assert last["loss"] < first["loss"] and last["f1"] > 0.8, logged
    skipped = [int(line.split(" %")[0].split()[-1]) for line in said.splitlines() if "skip" in line]
    assert len(skipped) == 2 and all(10 < percent < 90 for percent in skipped), said
