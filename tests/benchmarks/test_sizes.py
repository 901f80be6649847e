"""The table of model sizes at its smallest."""

import json

import jax
import pytest

from benchmarks import sizes
from benchmarks.models import abstract_dit
from skipsr_jax.errors import UserError
from skipsr_jax.models.presets import DIT_PRESETS, LIGHT_CODER_PRESETS, VAE_PRESETS

SMALL = "sizes --dits=192x4 --coders=24 --vaes=16 --clip=5x64x96 --skip=0"


def test_the_sizes_of_tiny_are_those_of_tiny(tmp_path):
    out = tmp_path / "sizes.json"
    assert sizes.main([*SMALL.split(), f"--out={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["part"] for row in rows] == [
        "dit 192x4", "light coder 24 encoder", "light coder 24 decoder",
        "autoencoder 16 encoder", "autoencoder 16 decoder",
    ]  # fmt: skip
    assert all(row["of_tiny"] == 1 and row["tflop"] > 0 for row in rows)
    assert sizes.dit_config("192x4") == DIT_PRESETS["tiny"]
    assert sizes.light_config(24) == LIGHT_CODER_PRESETS["tiny"]
    assert sizes.vae_config(16) == VAE_PRESETS["tiny"]


def test_small_is_a_size_of_the_table_and_fits_its_limit():
    assert sizes.dit_config("192x10") == DIT_PRESETS["small"]
    values = sizes.parse_flags(
        [*SMALL.split(), "--coders=small", "--vaes="], sizes.define_flags(), ""
    )
    *_, decoder = sizes.rows_of(values)
    assert decoder["part"] == "light coder small decoder" and decoder["of_tiny"] > 5
    assert sizes.vae_config(16) == VAE_PRESETS["small"]
    row = sizes.dit_row(DIT_PRESETS["small"], (5, 64, 96), 0.0, "bfloat16", False)
    coder = sizes.abstract_light_coder(LIGHT_CODER_PRESETS["small"], "bfloat16")
    assert 3 * (row["params_m"] * 1e6 + sizes.parameters(coder)) < 40e6  # bf16 and 8-bit changes
    assert sizes.parameters(abstract_dit(DIT_PRESETS["tiny"], "float32")) < 1e6 * row["params_m"]


@pytest.mark.slow
def test_seconds_are_measured(monkeypatch):
    monkeypatch.setattr(sizes, "median_seconds", lambda run, repeats: len(jax.tree.leaves(run())))
    values = sizes.parse_flags(
        [*SMALL.split(), "--measure", "--coders=", "--vaes="], sizes.define_flags(), sizes.__doc__
    )
    assert [row["seconds"] for row in sizes.rows_of(values)] == [1]


def test_a_size_that_is_none():
    for wrong in ("256", "256x", "250x4"):
        with pytest.raises(UserError, match="--dits"):
            sizes.dit_config(wrong)
