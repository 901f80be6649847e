"""Which predictor a model is loaded with, what is said of it, and configs that make no sense."""

import json
import math
import pathlib
import random
import re

import pytest
import small_model

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.inference import model as models
from skipsr_jax.inference.model import (
    chosen_mask,
    find_predictor,
    load_model,
    mask_origin,
    open_model,
)
from skipsr_jax.inference.settings import Mask
from skipsr_jax.resources import CHECKPOINTS

OWN = {"predictor": {"width": 4}}
SHIPPED = str(CHECKPOINTS / "mask_predictor")


@pytest.mark.parametrize(
    "mask,config,found",
    [
        (Mask(), {}, SHIPPED),
        (Mask("predictor"), {}, SHIPPED),
        (Mask(), OWN, "mine"),
        (Mask(checkpoint="other"), OWN, "other"),
        (Mask("input"), OWN, ""),
        (Mask("none", checkpoint="other"), OWN, ""),
        (None, OWN, ""),
    ],
)
def test_a_named_predictor_comes_first_then_the_models_own(
    mask, config, found, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert find_predictor(mask, "mine", config) == found


def test_without_any_predictor_auto_is_training_free_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "SHIPPED_PREDICTOR", "checkpoints/absent")
    params, config = (
        small_model.random_params(),
        {
            "vae": small_model.to_json(small_model.VAE_CONFIG),
            "dit": small_model.to_json(small_model.DIT_CONFIG),
        },
    )
    params.pop("predictor")
    store.save_model(tmp_path / "m", params, config)
    model = load_model(str(tmp_path / "m"), "float32", Mask())
    assert model.predictor is None and "predictor" not in model.params
    assert chosen_mask(Mask(), model).source == "input"
    assert mask_origin(Mask(), model) == "input, training-free, for there is no mask predictor"
    assert mask_origin(Mask("input"), model) == "input"
    with pytest.raises(UserError, match=r"no predictor.*config\.mask\.checkpoint.*source=input"):
        load_model(str(tmp_path / "m"), "float32", Mask("predictor"))


def test_a_predictor_is_loaded_beside_a_model_that_has_its_own(tmp_path):
    path = small_model.write_small_model(tmp_path / "m")
    own = load_model(path, "float32", Mask())
    shipped = load_model(path, "float32", Mask(checkpoint="checkpoints/mask_predictor"))
    assert type(own.predictor).__name__ == "MaskPredictor"
    assert type(shipped.predictor).__name__ == "PixelMaskPredictor"
    assert shipped.params["predictor"].keys() == {"energies", "on_grid"}
    assert mask_origin(Mask(), own) == f"predictor of {path}"
    assert chosen_mask(Mask(), own).source == "predictor"
    with pytest.raises(UserError, match=r"mask_predictor has no vae.*config\.checkpoint"):
        load_model("checkpoints/mask_predictor", "float32")


NONSENSE = (
    None, True, 0, -1, 1, 3, 1 << 20, 10**400, 0.0, -0.5, math.nan, math.inf, 1e-300, "x",
    [], {}, [1, 2], {"a": 1}, [-1, 0, 1], [10**400] * 4, "9" * 5000,
)  # fmt: skip


def opened(path: pathlib.Path, config: dict, part: str = "") -> str | None:
    """The line in which opening a model with this config ends, or None. ``part`` was edited."""
    coder = "light" if part == "light_coder" else "full"
    (path / "0" / "config" / "metadata").write_text(json.dumps(config))
    try:
        open_model(str(path), "float32", Mask("predictor"), coder=coder)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 5000
        return str(error)
    return None


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """A model's folder, and its config without the digest: it may be edited."""
    path = tmp_path_factory.mktemp("edited") / "m"
    small_model.write_small_model(path, light_coder=True)
    config = json.loads((path / "0" / "config" / "metadata").read_text())
    config.pop("config_sha256")
    assert opened(path, config) is None
    return path, config


@pytest.mark.parametrize(
    ("part", "field", "value", "says"),
    [
        ("vae", "norm_groups", 0, "norm_groups is 0: it must be from 1"),
        ("vae", "scaling_factor", math.nan, "scaling_factor is nan"),
        ("vae", "block_channels", [0, 4, 4, 8], r"block_channels\[0\] is 0"),
        ("dit", "width", 10**400, r"width is 10{79}\.\.\.: it must be a number of 64"),
        ("dit", "norm_eps", math.inf, "norm_eps is inf"),
        ("predictor", "width", 1 << 40, "width is 1099511627776: it must be from 1"),
        ("light_coder", "decoder_blocks", [1, 10**9, 1], r"decoder_blocks\[1\] is 1000000000"),
    ],
)
def test_sizes_that_make_no_sense_are_named(editable, part, field, value, says):
    path, config = editable
    said = opened(path, config | {part: config[part] | {field: value}}, part)
    assert said is not None and re.search(says, said), said


@pytest.mark.slow
def test_whatever_a_config_holds_opening_it_ends_in_one_line(editable):
    path, config = editable
    cases = [("", config | {name: value}) for name in config for value in NONSENSE]
    for part in ("vae", "dit", "predictor", "light_coder"):
        cases += [
            (part, config | {part: config[part] | {field: value}})
            for field in config[part]
            for value in NONSENSE
        ]
    cases = random.Random(0).sample(cases, 100)
    assert sum(opened(path, edited, part) is not None for part, edited in cases) > 60
