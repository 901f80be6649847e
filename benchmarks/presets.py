"""The models whose inference benchmarks run: their configs, and their networks as shapes."""

import pathlib
from typing import Any

from flax import nnx

from benchmarks.transformer import abstract_transformer
from skipsr_jax.models.params import abstract
from skipsr_jax.models.presets import DIT_PRESETS, VAE_PRESETS
from skipsr_jax.models.vae import VAE
from skipsr_jax.resources import config_names

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


MODELS = [name for name in sorted(DIT_PRESETS) if name in config_names()]
"""Those that have a config of inference of the same name."""


def abstract_networks(model: str, dtype: Any) -> dict[str, nnx.Module]:
    """Its autoencoder and its transformer as shapes, stored and computed in ``dtype``."""
    kind = {"dtype": dtype, "param_dtype": dtype}
    return {
        "vae": abstract(lambda: VAE(VAE_PRESETS[model], rngs=nnx.Rngs(0), **kind)),
        "dit": abstract_transformer(DIT_PRESETS[model], dtype),
    }
