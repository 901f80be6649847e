"""The program that analyses: tables, JSON, plots and figures, and mistakes in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_model import write_small_model

from skipsr_jax.evaluation import analyse, plots, skip_analysis
from skipsr_jax.evaluation.figure import side_by_side, zoomed_region
from skipsr_jax.evaluation.speedup import MeasuredTimes
from skipsr_jax.inference.model import open_model


def has_matplotlib():
    try:
        plots.check_installed()
    except ModuleNotFoundError:
        return False
    return True


needs_matplotlib = pytest.mark.skipif(not has_matplotlib(), reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures of 48x64, one of them half busy."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    busy = np.full((48, 64, 3), 90, np.uint8)
    busy[:, 32:] = rng.integers(0, 255, (48, 32, 3))
    Image.fromarray(busy).save(folder / "busy.png")
    Image.new("RGB", (64, 48), (9, 80, 90)).save(folder / "flat.png")
    return folder


@pytest.fixture
def times(tmp_path):
    """What benchmarks.end_to_end writes: a short clip, and a long one dense and skipped."""

    def row(clip, skip, kept, refine, coding="auto"):
        seconds = {"encode_s": 1.0, "mask_s": 0.1, "refine_s": refine, "decode_s": 2.0}
        case = f"{clip}, blobs, {skip} % skipped"
        total = {"total_s": 3.2 + refine}
        return {"case": case, "coding": coding, "kept": kept, **seconds, **total}

    rows = [
        row("1x720x1280", 0, 10, 0.1),
        row("101x720x1280", 40, 600, 1.0),
        row("101x720x1280", 0, 1000, 2.0),
        row("101x720x1280", 0, 1000, 9.0, "dense"),
    ]
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"device": "a GPU", "model": "seedvr2_3b", "rows": rows}))
    return path


def run(*arguments):
    return analyse.main(["analyse", *map(str, arguments)])


def test_skip_tables_without_a_model(pictures, tmp_path, capsys, times):
    out = tmp_path / "analysis"
    arguments = "--noswap", "--nopredictor", f"--times={times}", "--plots=none"
    assert run(f"--source={pictures}", f"--out={out}", *arguments) == 0
    text = capsys.readouterr().out
    assert "mean of 2 pictures" in text and "training-free mask" in text and "predictor" not in text
    content = json.loads((out / "analysis.json").read_text())
    busy, flat = content["rows"]
    assert (
        busy["name"] == "busy" and 0 < busy["oracle"]["skip"] <= 0.5 and flat["oracle"]["skip"] == 1
    )
    measured = MeasuredTimes(times).speedup("refine", busy["oracle"]["skip"])
    assert busy["oracle"]["measured"]["transformer"] == measured > 1
    assert flat["oracle"]["measured"]["transformer"] is None  # no row skips that much
    assert content["means"][0]["oracle"]["skip"] > 0.5 and content["tau"] == 2e-4


def test_the_full_coder_runs_unless_another_is_named(pictures, tmp_path, monkeypatch, capsys):
    def without_networks(name, media, analysis):
        return skip_analysis.analyse(name, media, replace(analysis, programs=None, swap=False))

    monkeypatch.setattr(analyse, "analyse", without_networks)
    monkeypatch.setattr(analyse, "load_model", open_model)  # which reads no parameters
    for more, coder in (((), "full"), (("--config.coder=light",), "light")):
        out = tmp_path / coder
        assert run(f"--source={pictures}/busy.png", "--plots=none", f"--out={out}", *more) == 0
        first = capsys.readouterr().out.splitlines()[0]
        content = json.loads((out / "analysis.json").read_text())
        source, predictor = content["checkpoint"], content["predictor"]
        assert "tiny" in source and content["coder"] == coder
        assert first == f"checkpoint {source}; coder {coder}; predictor {predictor}"


def test_what_is_done_to_a_file_is_said(tmp_path, capsys):
    Image.new("RGBA", (64, 48), (9, 80, 90, 128)).save(tmp_path / "clear.png")
    out = tmp_path / "out"
    arguments = "--noswap", "--nopredictor", "--plots=none", f"--out={out}"
    assert run(f"--source={tmp_path}/clear.png", *arguments) == 0
    line = f"{tmp_path}/clear.png: transparent pixels are laid on black"
    assert line in capsys.readouterr().out.splitlines()
    assert json.loads((out / "analysis.json").read_text())["notes"][0] == line


def test_a_data_set_has_its_truths_analysed_at_the_size_that_is_said(tmp_path, capsys):
    for part, size in (("GT", (70, 50)), ("LQ", (17, 12))):
        (tmp_path / part).mkdir()
        Image.new("RGB", size, (9, 80, 90)).save(tmp_path / part / "a.png")
    assert run(f"--source={tmp_path}", "--noswap", "--nopredictor") == 0
    said = capsys.readouterr().out
    assert f"{tmp_path} is a data set: the clips of its GT/ are analysed" in said.splitlines()
    assert "64x48" in said and "70x50" not in said


def test_numbered_pictures_are_one_clip_or_many(tmp_path, capsys):
    for index in range(5):
        Image.new("RGB", (64, 48), (9, 80, index)).save(tmp_path / f"{index}.png")
    arguments = f"--source={tmp_path}", "--noswap", "--nopredictor"
    for more, mean in (((), "mean of 1 clip "), (("--folder=files",), "mean of 5 pictures")):
        assert run(*arguments, *more) == 0
        assert mean in capsys.readouterr().out


def test_times_of_another_transformer_are_refused(times, capsys):
    arguments = "--source=x", "--noswap", "--nopredictor", f"--times={times}", "--transformer=tiny"
    assert run(*arguments) == 1
    assert "is of seedvr2_3b: give --transformer=seedvr2_3b" in capsys.readouterr().err


def test_measured_times_are_interpolated(times):
    measured = MeasuredTimes(times)
    assert measured.skips == [0, 0.4] and measured.case == "101x720x1280"
    assert measured.speedup("refine", 0.2) == pytest.approx(2 / 1.5)
    assert measured.speedup("total", 0.0) == 1


@needs_matplotlib
@pytest.mark.parametrize("kind", plots.FORMATS)
def test_plots(kind, tmp_path, times):
    sweep = [{"tau": tau, "skip": skip, "psnr": 40 - 9 * skip}
             for tau, skip in ((1e-4, 0.2), (1e-3, 0.7))]  # fmt: skip
    rows = [{"name": "a", "sweep": sweep}, {"name": "mean", "sweep": sweep}]
    plots.threshold_effect(tmp_path / f"tau.{kind}", rows, 2e-4, "mean")
    plots.latency(tmp_path / f"latency.{kind}", MeasuredTimes(times))
    for name in ("tau", "latency"):
        data = (tmp_path / f"{name}.{kind}").read_bytes()
        assert len(data) > 5000 and data[:4] == (b"\x89PNG" if kind == "png" else b"<?xm")


def test_figure_zooms_into_what_is_refined_most():
    error = np.zeros((6, 8))
    error[4, 6] = 1
    keep = error > 0
    truth = np.full((96, 128, 3), 50, np.uint8)
    truth[64:80, 96:112] = 200
    top, left, height, width = zoomed_region(error, keep, (96, 128))
    assert top <= 64 < top + height and left <= 96 < left + width
    drawn = side_by_side(truth, keep, 255 - truth, error)
    assert drawn.shape == (96, 3 * 128 + 16, 3)
    assert np.isin([200, 50, 55], drawn).all() and (drawn == [255, 220, 0]).all(-1).any()


@pytest.mark.slow
def test_figure_of_a_model(pictures, tmp_path):
    checkpoint = write_small_model(tmp_path / "small")
    assert run(
        f"--source={pictures}/busy.png", "--noswap", "--nopredictor", f"--figure={tmp_path}/fig",
        f"--config.checkpoint={checkpoint}", "--config.mask.source=input",
    ) == 0  # fmt: skip
    with Image.open(tmp_path / "fig/busy.png") as image:
        assert image.size == (3 * 64 + 16, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--source is missing"),
        (["--source=x", "--frames=6"], r"--frames=6 is not 4k + 1: take 5"),
        (["--source=nowhere"], "there is no file or folder nowhere"),
        (["--source=x", "--taus=a"], "--taus=a"),
        (["--source=x", "--taus="], "--taus is empty"),
        (["--source=x", "--taus=1e-4,inf"], "--taus=inf: a threshold is a finite number above 0"),
        (["--source=x", "--taus=1e-4,-1"], "--taus=-1: a threshold"),
        (["--source=x", "--tau=nan"], "--tau=nan: a threshold"),
        (["--source=x", "--tau=0"], "--tau=0: a threshold"),
        (["--source=x", "--weights=."], "lpips: needs alexnet-owt-7be5be79.pth in the folder"),
        (["--source=x", "--times=nowhere.json"], "--times=nowhere.json is not what"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert run("--noswap", "--nopredictor", *arguments) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
