"""Means of scores: each result's own, and those over clips that all results have."""

from skipsr_jax.evaluation.score_table import mean_of, means_of_common_clips, table


def test_results_of_different_clips_have_means_over_the_common_ones_too():
    results = {
        "one": {"clips": {"a": {"psnr": 10.0, "ssim": 1.0}, "b": {"psnr": 30.0, "ssim": 1.0}}},
        "two": {"clips": {"b": {"psnr": 20.0, "ssim": None}}},
    }
    common, lines = means_of_common_clips(results, ["psnr", "ssim"])
    assert common == {"one": {"psnr": 30, "ssim": None}, "two": {"psnr": 20, "ssim": None}}
    assert len(lines) == 1 and lines[0].endswith("psnr (1), ssim (0)")
    for part in results.values():
        part["mean"] = mean_of(part["clips"], ["psnr", "ssim"])
    assert results["one"]["mean"]["psnr"] == 20
    text = table({"results": results, "metrics": {"psnr": "", "ssim": ""}, "common": common})
    assert text.splitlines()[-3].split()[0] == "common"
    assert text.splitlines()[-2].split() == ["one", "30.0000", "-"]


def test_results_of_the_same_clips_have_one_mean():
    results = {"one": {"clips": {"a": {"psnr": 10.0}}}, "two": {"clips": {"a": {"psnr": 9.0}}}}
    assert means_of_common_clips(results, ["psnr"]) == ({}, [])
