"""The data section of a config: what it says is what the recipe of a batch gets."""

import dataclasses
import pathlib
import runpy

import pytest
from ml_collections import ConfigDict

from skipsr_jax.data.degradation.levels import LEVELS
from skipsr_jax.errors import UserError
from skipsr_jax.training.settings import Data, Settings, complete, from_config
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


def test_a_mixture_of_the_config_reaches_the_recipe():
    config = config_of("tiny_sr")
    config.data.degradation = "mixture"
    config.data.mixture = (("bicubic", 1.0), ("medium", 2.0), ("real", 0.5))
    config.data.real.crf = (20, 21)
    config.data.factors = ((4.0, 3.0), (1.5, 1.0))
    config.data.largest_step = 3
    recipe = recipe_of(from_config(config, LOSS_KINDS), masks=False)
    assert recipe.factors == ((4.0, 3.0), (1.5, 1.0)) and recipe.largest_step == 3
    assert recipe.degradation.weights == (1.0, 2.0, 0.5)
    assert recipe.degradation.kinds[:2] == ("bicubic", LEVELS["medium"])
    assert recipe.degradation.kinds[2].crf == (20, 21)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mixture", (("area", 1.0),)),  # without degradation=mixture
        ("mixture", (("worse", 1.0),)),
        ("degradation", "mixture"),  # of nothing
        ("factors", ((0.5, 1.0),)),
        ("factors", ((4.0, 0.0),)),
        ("largest_step", 0),
    ],
)
def test_mixtures_and_factors_out_of_range_are_named(key, value):
    with pytest.raises(ValueError, match=r"mixture is|factors is|largest_step is"):
        Data(root=("x",), **{key: value})


def test_wrong_levels_are_named():
    config = config_of("tiny_sr")
    config.data.real.second.jpeg_quality = (0, 300)
    with pytest.raises(UserError, match="jpeg_quality"):
        from_config(config, LOSS_KINDS)
    config = config_of("tiny_vae")
    config.data.degradation = "nearest"
    with pytest.raises(UserError, match="degradation"):
        from_config(config, LOSS_KINDS)


@pytest.mark.parametrize("stage", sorted(LOSS_KINDS))
def test_a_config_of_a_stage_alone_has_all_defaults(stage):
    config = ConfigDict({"stage": stage, "data": {"root": ("clips",)}})
    want = Settings(stage, Data(root=("clips",)), loss=LOSS_KINDS[stage]())
    assert from_config(config, LOSS_KINDS) == want
    assert from_config(complete(config, LOSS_KINDS), LOSS_KINDS) == want
    assert {"loss", "optimizer", "loop", "mesh"} <= set(config.keys()) and config.data.batch == 8


def test_a_level_of_one_round_leaves_the_others_of_that_round():
    config = ConfigDict({"stage": "vae", "data": {"root": ("clips",)}})
    config.data.real = ConfigDict({"second": {"blur_share": 0.5}})
    second = from_config(config, LOSS_KINDS).data.real.second
    assert second == dataclasses.replace(Data(root=("clips",)).real.second, blur_share=0.5)


def test_mistakes_name_the_dotted_key():
    config = ConfigDict({"stage": "sr", "data": {"root": ("clips",), "frames": 6}})
    config.loss = ConfigDict({"kept_share": 2.0})
    with pytest.raises(UserError, match=r"config\.loss\.kept_share is 2\.0: it must be above 0"):
        from_config(config, LOSS_KINDS)
    config.loss = ConfigDict()
    with pytest.raises(UserError, match=r"config\.data\.frames is 6: it must be 4k \+ 1"):
        from_config(config, LOSS_KINDS)
    with pytest.raises(UserError, match=r"names no stage \(adversarial, .*\): it is one of infer"):
        from_config(ConfigDict({"model": "tiny"}), LOSS_KINDS)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("loop", "steps", 2**31),
        ("data", "factors", ((4.0, 1e308), (2.0, 1e308))),
        ("data", "factors", ((4.0, 1.0), (2.0, 1e-300))),
        ("data", "mixture", (("area", 1e308), ("light", 1e308))),
    ],
)
def test_numbers_that_cannot_be_computed_with_are_refused(section, key, value):
    config = config_of("tiny_sr")
    config.data.degradation = "mixture"
    config.data.mixture = (("bicubic", 1.0),)
    setattr(config[section], key, value)
    with pytest.raises(UserError, match=f"config.{section}.{key} is .*: it must be"):
        from_config(config, LOSS_KINDS)
