"""The benchmark of masks by factor and input, on one small picture."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import mask_scores
from skipsr_jax.errors import UserError


def test_scores_both_masks_at_a_factor(tmp_path, capsys):
    picture = np.full((96, 144, 3), 90, np.uint8)
    picture[:, 96:] = np.random.default_rng(0).integers(0, 255, (96, 48, 3))
    (tmp_path / "clips").mkdir()
    Image.fromarray(picture).save(tmp_path / "clips" / "half.png")
    arguments = ["--factors=2", "--inputs=clean,noise5", "--smallest=16"]
    folder, out = f"--folder={tmp_path}/clips", tmp_path / "out.json"
    assert mask_scores.main(["", folder, *arguments, f"--out={out}"]) == 0
    clean, noisy = json.loads(out.read_text())["means"]
    assert (clean["factor"], clean["input"], clean["files"]) == (2, "clean", 1)
    assert clean["skip_oracle"] == pytest.approx(2 / 3)
    assert clean["predictor_f1"] > 0.8 and clean["training_free_f1"] > 0.8
    assert noisy["oracle_psnr_skipped"] < 40 < clean["oracle_psnr_skipped"]
    assert "predictor_f1" in capsys.readouterr().out


def test_what_it_refuses(tmp_path):
    with pytest.raises(UserError, match="--folder is missing"):
        mask_scores.main([""])
    with pytest.raises(UserError, match="--inputs=rain: name some of clean"):
        mask_scores.main(["", f"--folder={tmp_path}", "--inputs=clean,rain"])
