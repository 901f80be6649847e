"""Which mask predictor a model is loaded with, and what is said of it."""

import pytest
import small_model

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.inference import model as models
from skipsr_jax.inference.model import chosen_mask, find_predictor, load_model, mask_origin
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
