"""A checkpoint with random numbers that runs in a blink: for tests of the way of the data."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from flax import nnx

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.dataclass_json import to_json
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.predictor import MaskPredictor, PredictorConfig
from skipsr_jax.models.presets import TINY
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.nn.params import flatten, to_dict, unflatten

VAE_CONFIG = VAEConfig(
    block_channels=(4, 4, 8, 8), layers_per_block=1, norm_groups=4, residual_decoder=True
)
DIT_CONFIG = dataclasses.replace(
    TINY, width=16, text_width=8, heads=2, head_dim=12, rope_dim=12, layers=2, mm_layers=1
)
PREDICTOR_CONFIG = PredictorConfig(width=4)


def random_params(seed: int = 0) -> dict:
    """Parameters of all networks and both texts; zero-initialised ones made random too."""
    rngs = nnx.Rngs(seed)
    params = {
        "vae": to_dict(VAE(VAE_CONFIG, rngs=rngs)),
        "dit": to_dict(DiT(DIT_CONFIG, rngs=rngs)),
        "predictor": to_dict(MaskPredictor(PREDICTOR_CONFIG, rngs=rngs)),
        "text": {"positive": jnp.ones((3, 8)), "negative": -jnp.ones((5, 8))},
    }
    flat = flatten(params)
    for number, key in enumerate(sorted(flat)):
        if not flat[key].any():
            noise = jax.random.normal(jax.random.key(number), flat[key].shape)
            flat[key] = (0.02 * noise).astype(flat[key].dtype)
    return unflatten(flat)


def write_small_model(path: pathlib.Path, seed: int = 0) -> str:
    """Saves the model into a new folder and returns its path."""
    config = {
        "vae": to_json(VAE_CONFIG),
        "dit": to_json(DIT_CONFIG),
        "predictor": to_json(PREDICTOR_CONFIG),
    }
    store.save_model(path, random_params(seed), config)
    return str(path)
