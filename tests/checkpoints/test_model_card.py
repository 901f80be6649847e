"""The model card says what the checkpoint holds, and travels with it."""

import numpy as np

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.model_card import model_card

PARAMS = {
    "dit": {"a": np.zeros((2, 3), "float32"), "b": np.zeros(4, "int8")},
    "text": {"positive": np.zeros((5, 7), "float16")},
}
CONFIG = {
    "exported": {
        "dit": {"run": "runs/sr", "step": 7, "branch": "ema"},
        "adapter": {"run": "runs/lora", "step": 9, "branch": "params"},
    },
    "precision": "int8",
    "tau": 2e-4,
}


def test_parts_dtypes_origins_and_how_to_run_it():
    card = model_card("mine", PARAMS, CONFIG)
    assert card.startswith("---\nlicense: apache-2.0\n") and "# mine" in card
    row = "| diffusion transformer | 10 | float32, int8 | step 7 of runs/sr, average |"
    assert row in card
    assert "| text embeddings | 35 | float16 | - |" in card
    assert "merged into the transformer: step 9 of runs/lora." in card
    assert "blocks are int8" in card and "tau = 0.0002" in card
    assert "--config.checkpoint=mine" in card and 'checkpoint="mine"' in card


def test_an_adapter_alone_says_what_it_is_for():
    config = {
        "adapter": {"rank": 4, "alpha": 8.0, "targets": ["qkv"]},
        "base": {"width": 96, "layers": 3},
        "base_checkpoint": "checkpoints/base",
        "exported": {"adapter": {"run": "runs/lora", "step": 9, "branch": "ema"}},
    }
    card = model_card("lora", {"adapter": {"a": np.zeros(6, "float32")}}, config)
    assert "Rank 4, alpha 8.0" in card and "width 96 with 3 layers (checkpoints/base)" in card
    assert "--config.adapter=lora" in card and "merged into" not in card


def test_it_lies_in_the_checkpoint_which_is_read_as_before(tmp_path):
    store.save_model(tmp_path / "mine", PARAMS, {"tau": 1.0}, card="# mine\n")
    assert (tmp_path / "mine" / "README.md").read_text() == "# mine\n"
    assert store.restore_host(tmp_path / "mine").keys() == PARAMS.keys()
