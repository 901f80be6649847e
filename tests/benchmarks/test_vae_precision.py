"""The benchmark of the autoencoder's precision at its smallest."""

import json

import media_clips
import numpy as np
import pytest
import small_model

from benchmarks import vae_precision
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten, to_dict
from skipsr_jax.models.quantized_params import quantized_convolutions


@pytest.mark.slow
def test_errors_of_each_precision(tmp_path):
    out = tmp_path / "vae_precision.json"
    small = "vae_precision --model=tiny --channels=128,8,8,8 --clip=5x32x32"
    assert vae_precision.main([*small.split(), f"--out={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    kinds = [(row["convolutions"], row["coding"]) for row in rows]
    assert kinds == [(name, how) for name in ("bf16", "fp8") for how in ("dense", "sparse")]
    for bf16, fp8 in zip(rows[:2], rows[2:], strict=True):
        assert 0 < bf16["latent"] < fp8["latent"] < 0.2
        assert 0 < bf16["frames"] < fp8["frames"] < 0.2 and bf16["psnr"] > fp8["psnr"]


def test_sizes_that_blocks_do_not_cover_are_refused():
    with pytest.raises(UserError, match="multiples of 16"):
        vae_precision.main(["vae_precision", "--model=tiny", "--clip=5x24x32"])


def test_every_width_is_that_of_all_resnets_of_the_parts():
    vae = vae_precision.quantized_vae(small_model.VAE_CONFIG, "float32", True, ["decoder"])
    layers = quantized_convolutions(to_dict(vae))
    assert layers and all(layer.startswith("decoder/") for layer in layers)
    left = [path for path in flatten(to_dict(vae.decoder)) if "resnets" in path]
    assert not [path for path in left if path.endswith(("conv1/kernel", "conv2/kernel"))]
    wide_ones = vae_precision.quantized_vae(small_model.VAE_CONFIG, "float32", False)
    assert not quantized_convolutions(to_dict(wide_ones))


@pytest.mark.slow
def test_upscaled_clips_change_with_each_part_in_fp8(tmp_path):
    checkpoint = small_model.write_small_model(tmp_path / "model")
    (tmp_path / "clips").mkdir()
    media_clips.write_clip(tmp_path / "clips" / "a.mp4", frames=6)
    out = tmp_path / "out.json"
    asked = ["--every_width", "--clip=1x32x32", "--smallest=16", f"--out={out}"]
    folder = f"--folder={tmp_path}/clips"
    vae_precision.main(["vae_precision", f"--checkpoint={checkpoint}", folder, *asked])
    row, means = json.loads(out.read_text())["upscaled"]
    assert row.pop("clip") == "a.mp4" and means.pop("clip") == "mean" and means == row
    assert row.pop("float32") > 5
    assert len(row) == 3 and all(0 < abs(change) < 1 for change in row.values())
    assert len(np.unique(list(row.values()))) == 3


def test_clips_are_upscaled_by_a_checkpoint():
    with pytest.raises(UserError, match="name its --checkpoint"):
        vae_precision.main(["vae_precision", "--model=tiny", "--folder=clips"])
