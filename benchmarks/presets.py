"""The models whose inference benchmarks run: their configs, and their networks as shapes."""

import pathlib
import runpy
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from benchmarks.transformer import abstract_transformer
from skipsr_jax.models.params import abstract
from skipsr_jax.models.presets import DIT_PRESETS, VAE_PRESETS
from skipsr_jax.models.vae import VAE

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def config_path(model: str) -> pathlib.Path:
    """Where the config of a model's inference is, if there is one."""
    return REPOSITORY / "configs" / f"{model}.py"


def load_config(model: str) -> ConfigDict:
    """That config."""
    return runpy.run_path(str(config_path(model)))["get_config"]()


MODELS = [name for name in sorted(DIT_PRESETS) if config_path(name).exists()]


def abstract_networks(model: str, dtype: Any) -> dict[str, nnx.Module]:
    """Its autoencoder and its transformer as shapes, stored and computed in ``dtype``."""
    kind = {"dtype": dtype, "param_dtype": dtype}
    return {
        "vae": abstract(lambda: VAE(VAE_PRESETS[model], rngs=nnx.Rngs(0), **kind)),
        "dit": abstract_transformer(DIT_PRESETS[model], dtype),
    }
