"""The benchmark of the autoencoder's precision at its smallest."""

import json

import pytest

from benchmarks import vae_precision
from skipsr_jax.errors import UserError


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
