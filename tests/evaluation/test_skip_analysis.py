"""The analysis of skipping: chunks are those of the whole clip, and skipping costs what it must."""

import dataclasses

import numpy as np
import pytest
from media_clips import write_clip
from PIL import Image
from small_model import SMALLEST_DIT, write_small_model

from skipsr_jax.data.oracle import oracle_error
from skipsr_jax.evaluation import skip_analysis
from skipsr_jax.evaluation.skip_analysis import Analysis, analyse
from skipsr_jax.evaluation.speedup import operations
from skipsr_jax.evaluation.true_clips import chunks, read_truth
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Mask, Settings
from skipsr_jax.media.reader import open_media

WITHOUT_MODEL = Analysis(
    tau=2e-4, taus=(1e-5, 1e-3), scale=4, chunk=5, limit=0, swap=False, programs=None,
    settings=Settings(checkpoint="none"), transformer=SMALLEST_DIT,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """11 frames of 70x50: a smooth picture whose right third is busy, in a lossless file."""
    folder = tmp_path_factory.mktemp("clip") / "busy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:50, :70]
    for index in range(11):
        frame = np.stack([60 + x, 60 + y + index, 90 + 0 * x], -1).astype(np.uint8)
        frame[:, 48:] = rng.integers(0, 255, (50, 22, 3))
        Image.fromarray(frame).save(folder / f"{index:02d}.png")
    return open_media(folder)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    path = write_small_model(tmp_path_factory.mktemp("model") / "small")
    return Programs(load_model(path, "float32", Mask(source="predictor")))


def test_chunks_have_the_patches_of_the_whole_clip(clip):
    parts = list(chunks(clip, 5))
    assert [part.shape for part in parts] == [(5, 48, 64, 3), (5, 48, 64, 3)]
    whole = read_truth(clip.path, 10)
    assert len(whole) == 9  # 4k + 1
    errors = [oracle_error(part) for part in parts]
    joined = np.concatenate([errors[0], errors[1][1:]])
    np.testing.assert_allclose(joined, oracle_error(whole), rtol=1e-6)


def test_skip_rows_need_no_model(clip):
    row = analyse("busy", clip, WITHOUT_MODEL)
    assert row["frames"] == 9 and row["kind"] == "clip" and "psnr" not in row["oracle"]
    keep = oracle_error(read_truth(clip.path, 9)) > 2e-4
    assert row["oracle"]["skip"] == pytest.approx(1 - keep.mean())
    assert 0.4 < row["oracle"]["skip"] <= 0.75  # one of four columns of patches is busy
    assert [point["tau"] for point in row["sweep"]] == [1e-5, 1e-3]
    assert row["sweep"][0]["skip"] <= row["oracle"]["skip"] <= row["sweep"][1]["skip"]
    assert row["training_free"]["f1"] > 0.6 and "predictor" not in row
    parts = [keep[:2], keep[1:]]
    ran = sum(operations(SMALLEST_DIT, part) for part in parts)
    dense = sum(operations(SMALLEST_DIT, np.ones_like(part)) for part in parts)
    assert row["oracle"]["speedup"] == pytest.approx(dense / ran)


def test_limit_cuts_between_chunks(clip):
    for limit, frames in ((5, 5), (9, 9), (1, 1)):
        row = analyse("busy", clip, dataclasses.replace(WITHOUT_MODEL, limit=limit, chunk=9))
        assert row["frames"] == frames
    row = analyse("busy", clip, dataclasses.replace(WITHOUT_MODEL, limit=9, chunk=5))
    assert row["frames"] == 9


@pytest.mark.slow
def test_swap_scores_every_mask(clip, programs):
    settings = Settings(checkpoint="small", mask=Mask(source="predictor"))
    analysis = dataclasses.replace(
        WITHOUT_MODEL, swap=True, programs=programs, settings=settings, taus=(-1.0, 2e-4, 1.0)
    )
    row = analyse("busy", clip, analysis)
    nothing, paper, everything = row["sweep"]
    assert nothing["skip"] == 0 and nothing["psnr_swap"] == pytest.approx(80)
    assert nothing["psnr"] == row["reconstruction"]["psnr"]
    assert everything["skip"] == 1 and everything["psnr_swap"] < paper["psnr_swap"] < 80
    assert {key: paper[key] for key in ("skip", "psnr", "ssim", "psnr_swap")} == {
        key: row["oracle"][key] for key in ("skip", "psnr", "ssim", "psnr_swap")
    }
    assert 0 <= row["predictor"]["f1"] <= 1 and "psnr" in row["predictor"]


def test_means_are_of_clips_and_of_pictures_apart(clip, tmp_path):
    video = write_clip(tmp_path / "smooth.mkv", frames=5)
    rows = [analyse(m.path.stem, m, WITHOUT_MODEL) for m in (clip, open_media(video))]
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    rows.append(analyse("black", open_media(tmp_path / "black.png"), WITHOUT_MODEL))
    assert rows[2]["oracle"]["speedup"] is None  # nothing is left to compute
    lines = skip_analysis.without_speedup(rows)
    assert lines[0] == "all is skipped, so not in the mean of ops × (oracle): smooth, black"
    clips, pictures = skip_analysis.means(rows)
    assert clips["name"] == "mean of 2 clips" and pictures["name"] == "mean of 1 picture"
    skips = [row["oracle"]["skip"] for row in rows]
    assert clips["oracle"]["skip"] == pytest.approx(np.mean(skips[:2]))
    assert clips["sweep"][1]["tau"] == 1e-3 and pictures["oracle"]["speedup"] is None
