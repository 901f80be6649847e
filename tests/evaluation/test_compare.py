"""The program that compares: layouts in, JSON out, and every gap and mismatch said."""

import contextlib
import io
import json
import resource

import numpy as np
import pytest
from media_clips import write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import compare
from skipsr_jax.evaluation.measures.registry import METRICS, arrow


def save(path, codes):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(codes).save(path)


@pytest.fixture
def data(tmp_path):
    """GT of two clips of 3 frames, and two results: one equal, one 4 codes off in clip b."""
    rng = np.random.default_rng(0)
    for clip in "ab":
        for index in range(3):
            codes = rng.integers(20, 200, (24, 32, 3), dtype=np.uint8)
            save(tmp_path / f"set/GT/{clip}/{index:03d}.png", codes)
            save(tmp_path / f"same/{clip}/{index:03d}.png", codes)
            save(tmp_path / f"off/{clip}/{index:03d}.png", codes + np.uint8(4 * (clip == "b")))
    return tmp_path


def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        compare.run(["compare", *map(str, arguments)])
    return printed.getvalue()


def test_several_results_side_by_side(data):
    out = data / "scores.json"
    text = run(f"--result=same={data}/same", f"--result=off={data}/off", f"--truth={data}/set",
               "--metrics=psnr,ssim,flicker", f"--out={out}")  # fmt: skip
    scores = json.loads(out.read_text())
    off = scores["results"]["off"]
    error = 10 * np.log10(1 / ((4 / 255) ** 2 + 1e-8))
    assert off["clips"]["b"]["psnr"] == pytest.approx(error) and off["clips"]["a"]["psnr"] == 80
    assert off["mean"]["psnr"] == pytest.approx((80 + error) / 2)
    assert off["clips"]["b"]["frames"] == 3 and off["mean"]["flicker"] == pytest.approx(0, abs=1e-9)
    assert scores["results"]["same"]["mean"]["ssim"] == pytest.approx(1)
    assert scores["notes"] == [] and list(scores["metrics"]) == ["psnr", "ssim", "flicker"]
    assert "means" in text and "psnr↑" in text and "flicker↓" in text
    with pytest.raises(UserError, match="exists: give --overwrite"):
        run(f"--result={data}/same", f"--out={out}", "--metrics=niqe")


def test_the_scores_are_printed_before_anything_is_written(data, monkeypatch, capsys):
    def fail(*arguments, **keywords):
        raise UserError("no space")

    monkeypatch.setattr(compare, "write_json", fail)
    arguments = [f"--result=x={data}/same", f"--truth={data}/set", "--metrics=psnr"]
    assert compare.main(["compare", *arguments, f"--out={data}/scores.json"]) == 1
    printed = capsys.readouterr()
    assert "80.0000" in printed.out and printed.err == "compare: no space\n"


def test_pictures_have_no_flicker_and_it_is_said(data):
    frame = data / "off/b/001.png"
    scores = compare.compare({"x": frame}, data / "set/GT/b/001.png", ["psnr", "flicker"])
    clip = scores["results"]["x"]["clips"]["001"]
    assert clip["flicker"] is None and scores["results"]["x"]["mean"]["flicker"] is None
    assert scores["notes"] == [f"{frame}: no flicker: a metric of time needs two frames"]
    assert "-" in compare.table(scores).split()


def test_mismatches_are_said_or_refused(data):
    save(data / "odd/b/000.png", np.zeros((23, 40, 3), np.uint8))
    arguments = f"--result=odd={data}/odd", f"--truth={data}/set", "--metrics=psnr"
    text = run(*arguments)
    assert "is 40x23, its truth 32x24: both are cut to 32x23" in text
    assert "has 1 frame, its truth 3: the first 1" in text
    with pytest.raises(UserError, match="cut to 32x23"):
        run(*arguments, "--mismatch=refuse")


def test_truths_without_result_are_said(data):
    for file in (data / "same/a").iterdir():
        file.unlink()
    scores = compare.compare({"same": data / "same"}, data / "set", ["psnr"], folder="frames")
    assert "same has no clip for 1 truth: a" in scores["notes"][0]


def test_two_files_are_paired_whatever_their_names_and_folders_are_not(data):
    for part in ("one", "two"):
        save(data / f"{part}/{part}.png", np.full((16, 16, 3), 9, np.uint8))
    one, two = data / "one/one.png", data / "two/two.png"
    arguments = "--metrics=psnr", f"--page={data}/page.html", "--overwrite"
    text = run(f"--result=r={one}", f"--truth={two}", f"--input={two}", *arguments)
    assert f"{one} is paired with {two}, which has another name" in text.splitlines()
    for of_folders, says in (
        ([f"--result=r={one.parent}", f"--truth={two}"], "no truth has the name of"),
        ([f"--result=r={one}", f"--truth={two.parent}"], "name the clips, not their folders"),
        ([f"--result=r={one}", f"--input={two.parent}"], "--input: no name is that of a clip: two"),
    ):
        with pytest.raises(UserError, match=says):
            run(*of_folders, "--metrics=niqe" if "--input" in says else "--metrics=psnr",
                *arguments[1:])  # fmt: skip


def test_niqe_of_few_blocks_is_doubtful_and_it_is_said(tmp_path):
    rng = np.random.default_rng(0)
    for name, height in (("few", 96), ("nine", 3 * 96)):
        save(tmp_path / f"r/{name}.png", rng.integers(0, 255, (height, 3 * 96, 3), np.uint8))
    scores = compare.compare({"r": tmp_path / "r"}, None, ["niqe"])
    (note,) = scores["notes"]
    assert note.endswith("few.png: niqe says little: its frames have 3 blocks of 96 x 96 pixels, "
                         "and up to 8 it is mostly noise")  # fmt: skip
    assert scores["doubtful"] == {"niqe": ["few"]}
    assert scores["results"]["r"]["clips"]["few"]["niqe"] > 0


def test_crispness_is_best_nearest_to_1():
    assert [arrow(name) for name in ("crispness", "psnr", "niqe")] == ["→1", "↑", "↓"]


def test_each_that_cannot_run_is_refused(data):
    with pytest.raises(UserError) as error:
        compare.compare({"x": data / "same"}, None, ["psnr", "niqe", "dover"])
    assert [part.split(":")[0] for part in str(error.value).split("; ")] == ["psnr", "dover"]
    for wrong in ("psrn", "PSNR"):
        with pytest.raises(UserError, match=f"there is no metric '{wrong}': did you mean psnr"):
            compare.compare({"x": data / "same"}, None, [wrong])


def test_a_result_that_is_the_truth_is_said(data):
    scores = compare.compare({"x": data / "set/GT"}, data / "set", ["psnr"])
    assert scores["results"]["x"]["mean"]["psnr"] == 80
    assert len(scores["notes"]) == 2 and "GT/a is compared with itself" in scores["notes"][0]
    compare.compare({"x": data / "set/GT"}, data / "set", ["psnr"], refuse_mismatch=True)


def test_no_metric_is_refused(data, capsys):
    assert compare.main(["compare", f"--result=x={data}/same", "--metrics="]) == 1
    assert "--metrics is empty" in capsys.readouterr().err


def test_names_of_results():
    assert compare.named_paths(["a=x/y", "out/b.mp4", "out/c=d.mp4"]) == {
        "a": "x/y", "b": "out/b.mp4", "c=d": "out/c=d.mp4",
    }  # fmt: skip
    for wrong in (["a="], ["a=x", "a=y"]):
        with pytest.raises(UserError):
            compare.named_paths(wrong)


def test_a_damaged_file_ends_all(data, capsys):
    (data / "off/a/001.png").write_bytes((data / "off/a/001.png").read_bytes()[:200])
    arguments = ["compare", f"--result=x={data}/off", f"--truth={data}/set", "--metrics=psnr"]
    assert compare.main(arguments) == 1
    assert "compare: " in capsys.readouterr().err


def test_damaged_frames_of_a_video_are_in_the_notes(tmp_path):
    for name in ("truth", "result"):
        write_clip(tmp_path / f"{name}.mp4", frames=24)
    whole = (tmp_path / "result.mp4").read_bytes()
    start = whole.index(b"mdat") + len(whole) // 3
    (tmp_path / "result.mp4").write_bytes(whole[:start] + bytes(400) + whole[start + 400 :])
    scores = compare.compare({"x": tmp_path / "result.mp4"}, tmp_path / "truth.mp4", ["psnr"])
    notes = [note for note in scores["notes"] if "result.mp4" in note]
    assert any("damaged" in note or "could not be decoded" in note for note in notes)


def test_the_truth_is_named_once(data, capsys):
    truths = [f"--truth={data}/set", f"--truth={data}/same"]
    assert compare.main(["compare", f"--result=x={data}/same", *truths]) == 1
    assert "--truth is given 2 times" in capsys.readouterr().err


def test_help_does_not_advise_what_is_refused():
    text = compare.define_flags().get_help()
    truth = text[text.index("--truth:") : text.index("--weights:")]
    assert "GT/ in it" in truth and "repeat" not in truth and "repeat" in text


def test_every_metric_has_a_definition():
    assert all(metric.about for metric in METRICS.values())


@pytest.mark.slow
def test_three_thousand_frames_in_bounded_memory(tmp_path):
    for name, crf in (("truth", "4"), ("result", "30")):
        write_clip(tmp_path / f"{name}.mp4", frames=3000, options={"crf": crf})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = compare.compare(
        {"x": tmp_path / "result.mp4"},
        tmp_path / "truth.mp4",
        ["psnr", "psnr_y", "ssim", "flicker", "tpsnr"],
    )
    assert scores["results"]["x"]["clips"]["truth"]["frames"] == 3000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, f"{grown} kB"  # all frames in float64 would be 220 MB each
