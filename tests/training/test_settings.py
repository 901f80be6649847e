"""The data section of a config: what it says is what the recipe of a batch gets."""

import pathlib
import runpy

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.training.settings import complete, from_config
from skipsr_jax.training.stage import recipe_of
from skipsr_jax.training.stages.registry import LOSS_KINDS

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


def config_of(name):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    return complete(config, LOSS_KINDS)


@pytest.mark.parametrize("name", ["tiny_vae", "tiny_predictor", "tiny_sr"])
def test_the_way_down_is_area_unless_the_config_says_otherwise(name):
    config = config_of(name)
    assert recipe_of(from_config(config, LOSS_KINDS), masks=False).degradation == "area"
    config.data.degradation = "bicubic"
    assert recipe_of(from_config(config, LOSS_KINDS), masks=False).degradation == "bicubic"


def test_levels_of_the_config_reach_the_recipe():
    config = config_of("tiny_sr")
    config.data.degradation = "real"
    config.data.real.first.noise_sigma = (2.0, 3.0)
    config.data.real.crf = (20, 21)
    levels = recipe_of(from_config(config, LOSS_KINDS), masks=False).degradation
    assert levels.first.noise_sigma == (2.0, 3.0) and levels.crf == (20, 21)
    assert levels.second.noise_sigma == (1.0, 12.0)


def test_wrong_levels_are_named():
    config = config_of("tiny_sr")
    config.data.real.second.jpeg_quality = (0, 300)
    with pytest.raises(UserError, match="jpeg_quality"):
        from_config(config, LOSS_KINDS)
    config = config_of("tiny_vae")
    config.data.degradation = "nearest"
    with pytest.raises(UserError, match="degradation"):
        from_config(config, LOSS_KINDS)
