"""The command that writes a grown model: what is in it, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from small_model import DIT_CONFIG, LIGHT_CONFIG, write_small_model

from skipsr_jax.checkpoints import grow, store
from skipsr_jax.config import from_json
from skipsr_jax.models import presets
from skipsr_jax.models.dit import DiTConfig

LARGER = dataclasses.replace(DIT_CONFIG, layers=4)
WIDER = dataclasses.replace(LIGHT_CONFIG, decoder_channels=(6, 6, 10))


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.DIT_PRESETS, "small", LARGER)
    monkeypatch.setitem(presets.DIT_PRESETS, "seedvr2_3b", dataclasses.replace(LARGER, width=24))
    monkeypatch.setitem(presets.LIGHT_CODER_PRESETS, "small", WIDER)
    return write_small_model(tmp_path / "model", light_coder=True)


def test_the_grown_model_is_a_checkpoint_of_the_larger_size(model, tmp_path, capsys):
    out = tmp_path / "grown"
    assert grow.main(["grow.py", f"--model={model}", "--to=small", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"{out}: wrote dit, light_coder\n"
    config, params = store.load_config(out), store.restore_host(out)
    assert from_json(DiTConfig, config["dit"], "") == LARGER
    assert params.keys() == {"dit", "light_coder", "text"}
    kept = store.restore_host(model)
    np.testing.assert_array_equal(params["text"]["positive"], kept["text"]["positive"])
    blocks = params["dit"]["shared_blocks"]["all"]["qkv"]["kernel"]
    of_model = kept["dit"]["shared_blocks"]["all"]["qkv"]["kernel"]
    np.testing.assert_array_equal(blocks[-1], of_model[-1])
    assert len(blocks) == LARGER.layers - LARGER.mm_layers
    assert (out / "README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to=small"], "--model and --out are both needed"),
        (["--model=MODEL", "--to=seedvr2_3b", "--out=OUT"], "its dit does not grow to seedvr2_3b"),
        (["--model=nowhere", "--out=OUT"], "no such checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, tmp_path, capsys, arguments, words):
    out = tmp_path / "grown"
    named = [x.replace("MODEL", model).replace("OUT", str(out)) for x in arguments]
    assert grow.main(["grow.py", *named]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not out.exists()
