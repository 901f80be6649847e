"""The page of a run of infer.py. tests/cli/test_infer.py runs --page from the command line."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from media_clips import write_clip

from skipsr_jax.cli import infer, result_page
from skipsr_jax.errors import UserError
from skipsr_jax.inference.job_output import Target
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import open_media


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", frames=5, height=16, width=24)


def contents_of(page):
    return json.loads(re.search(r'id="contents">(.*?)</script>', page.read_text("utf-8"))[1])


@pytest.mark.parametrize("with_truth", [False, True])
def test_it_shows_inputs_results_masks_and_seconds(tmp_path, clip, with_truth):
    result = write_clip(tmp_path / "big.mp4", frames=5, height=32, width=48)
    report = Report()
    report.seconds |= {"decode": 2.5, "programs": 6.0}
    report.coder, report.mask_source = "light", "predictor of /home/me/own"
    masks = [np.full((2, 3), index == 0) for index in range(5)]
    settings = Settings(checkpoint="model")
    if with_truth:
        mask = dataclasses.replace(settings.mask, source="oracle", reference=str(result))
        settings = dataclasses.replace(settings, mask=mask)
    files = Target(open_media(clip), (32, 48), result, None, settings.output)
    finished = [result_page.Done(files, masks, report)]
    page = tmp_path / "report.html"
    result_page.write(str(page), finished, settings, overwrite=False)
    contents = contents_of(page)
    (shown,) = contents["clips"]
    assert "with the checkpoint model, by its light coder." in contents["notes"][0]
    names = ["input", "result", "truth"] if with_truth else ["input", "result"]
    assert [v["name"] for v in shown["versions"]] == names
    assert (shown["height"], shown["width"], shown["frames"]) == (32, 48, 5)
    assert shown["versions"][1]["seconds"] == {"decode": 2.5, "programs": 6.0}
    (mask,) = shown["masks"]
    assert (mask["name"], mask["rows"], mask["columns"]) == ("predictor of own", 2, 3)
    assert mask["starts"] == [0, 1]


def test_results_of_an_earlier_run_are_shown_and_what_is_missing_is_said(tmp_path, clip):
    result = write_clip(tmp_path / "big.mp4", frames=5, height=32, width=48)
    settings, page = Settings(checkpoint="model"), tmp_path / "report.html"
    done = [
        result_page.Done(Target(open_media(clip), (32, 48), result, mask, settings.output))
        for mask in (None, result)
    ]
    lacks = result_page.lacking(done, [tmp_path / "broken.mp4"])
    result_page.write(str(page), done, settings, overwrite=False, lacks=lacks)
    contents = contents_of(page)
    shown = [[v["name"] for v in of["versions"]] for of in contents["clips"]]
    assert shown == [["input", "result"], ["input", "result", "mask"]]
    notes = " ".join(contents["notes"])
    assert "by an earlier run" in notes and "clip.mp4, clip.mp4." in notes
    assert "because they failed: broken.mp4." in notes


def test_a_page_that_exists_is_refused_before_any_work(tmp_path, clip, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").touch()
    args = ["infer.py", f"--input={clip}", "--page=report.html", "--config.checkpoint=nowhere"]
    assert infer.main(args) == 1
    assert "report.html exists" in capsys.readouterr().err


def test_a_page_where_a_result_goes_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = pathlib.Path("results/out.mp4")
    with pytest.raises(UserError, match=f"--page=results is where the result {result} goes"):
        result_page.check("results", False, [pathlib.Path("other/a.mp4"), result])
    with pytest.raises(UserError, match=r"a page is no file \.mp4"):
        result_page.check("out.mp4", False, [pathlib.Path("out.mp4")])
    result_page.check("page", False, [result])
    with pytest.raises(UserError, match=r"^\. has no name; name a page"):
        result_page.check(".", False, [result])
