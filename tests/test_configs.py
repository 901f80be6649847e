"""Every file in configs/ is a config that its program takes, from any directory."""

import dataclasses
import pathlib

import pytest
from absl import flags

from skipsr_jax import commandline
from skipsr_jax.errors import UserError
from skipsr_jax.inference import settings as inference
from skipsr_jax.training import settings as training
from skipsr_jax.training.stage import recipe_of
from skipsr_jax.training.stages.registry import LOSS_KINDS

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(path.stem for path in CONFIGS.glob("*.py"))
OF_TRAINING = [name for name in FILES if name.endswith(tuple(f"_{s}" for s in LOSS_KINDS))]
STAGES = ("predictor", "sr", "distill", "adversarial")


def complete(config):
    if "stage" in config:
        return training.complete(config, LOSS_KINDS)
    return inference.complete(config)


def read(name, *overrides):
    argv = ["program", f"--config={CONFIGS / name}.py", *overrides]
    return commandline.parse(argv, "", flags.FlagValues(), complete=complete)[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_in_range_for_its_program(name):
    config = read(name)
    if "stage" in config:
        assert name in OF_TRAINING
        settings = training.from_config(config, LOSS_KINDS)
        assert name.endswith(settings.stage)
        packing = getattr(settings.loss, "packing", None)  # of stages that train a transformer
        assert bool(recipe_of(settings, masks=True, packing=packing).mixed) == bool(
            settings.data.pack
        )
        if settings.stage == "distill":
            assert settings.loop.steps == sum(steps for _, steps in settings.loss.schedule)
    else:
        inference.from_config(config)


def test_there_is_a_file_for_every_stage_and_size():
    wanted = {f"{size}_{s}" for size in ("tiny", "seedvr2_3b", "seedvr_7b") for s in STAGES}
    assert wanted | {"tiny_vae", "seedvr_vae"} <= set(OF_TRAINING)


@pytest.mark.parametrize("stage", STAGES)
def test_the_7b_file_differs_from_the_3b_file_in_model_and_paths_alone(stage):
    small, large = (
        training.from_config(read(f"{size}_{stage}"), LOSS_KINDS)
        for size in ("seedvr2_3b", "seedvr_7b")
    )
    if stage == "adversarial":  # heads after other layers: it has more of them
        assert large.loss.depths == (16, 26, 36)
        large = dataclasses.replace(
            large, loss=dataclasses.replace(large.loss, depths=small.loss.depths)
        )
    differing = {k for k in vars(small) if getattr(small, k) != getattr(large, k)}
    assert differing <= {"model", "init_from", "vae"} and "model" in differing
    assert large.transformer.width == 3072


@pytest.mark.parametrize("name", ["tiny_sr", "seedvr2_3b_sr", "seedvr_7b_distill"])
def test_remat_reaches_the_transformer(name):
    for policy in ("full", "dots", "none"):
        settings = training.from_config(read(name, f"--config.remat={policy}"), LOSS_KINDS)
        assert settings.transformer.remat == policy
    with pytest.raises(UserError, match="remat is 'some'"):
        training.from_config(read(name, "--config.remat=some"), LOSS_KINDS)


def test_a_schedule_can_be_given_on_the_command_line():
    config = read("tiny_distill", "--config.loss.schedule=((4,3),(2,3))")
    assert training.from_config(config, LOSS_KINDS).loss.schedule == ((4, 3), (2, 3))
    config = read("tiny_distill", "--config.loss.schedule=((4,3),(1,3))")
    with pytest.raises(UserError, match=r"schedule is \(\(4, 3\), \(1, 3\)\)"):
        training.from_config(config, LOSS_KINDS)
