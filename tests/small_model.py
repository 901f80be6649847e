"""A checkpoint with random numbers that runs in a blink: for tests of the way of the data."""

import dataclasses
import pathlib

import numpy as np

from skipsr_jax.checkpoints import store
from skipsr_jax.config import to_json
from skipsr_jax.models.dit import TINY, DiT, DiTConfig
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import abstract, flatten, to_dict, unflatten
from skipsr_jax.models.predictor import MaskPredictor, PredictorConfig
from skipsr_jax.models.vae import VAE, VAEConfig

VAE_CONFIG = VAEConfig(
    block_channels=(4, 4, 8, 8), layers_per_block=1, norm_groups=4, residual_decoder=True
)
LIGHT_CONFIG = LightCoderConfig(
    encoder_channels=(4, 4, 8),
    encoder_blocks=(1, 1, 1),
    decoder_channels=(4, 4, 8),
    decoder_blocks=(1, 1, 1),
)
DIT_CONFIG = dataclasses.replace(
    TINY, width=16, text_width=8, heads=8, head_dim=12, rope_dim=12, layers=2, mm_layers=1
)
SMALLEST_DIT = DiTConfig(
    width=32, text_width=32, heads=2, head_dim=16, layers=1, mm_layers=0, expand_ratio=1,
    gated_mlp=False, pixel_rope=True, rope_dim=16, output_modulation=True, plain_text_at_last=False,
)  # fmt: skip
"""For programs whose compiling takes all the time: one stack of blocks is half of two."""
PREDICTOR_CONFIG = PredictorConfig(width=4)


def _random(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of a sensible size for a parameter of that name; none is zero."""
    numbers = rng.normal(size=shape).astype(np.float32)
    if key.endswith("kernel"):
        return numbers / np.sqrt(np.prod(shape[-5:-1]))
    return 1 + 0.1 * numbers if key.endswith("scale") else 0.1 * numbers


def random_params(seed: int = 0, light_coder: bool = False) -> dict:
    """Parameters of all networks and both texts."""
    modules = {
        "vae": abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs)),
        "dit": abstract(lambda rngs: DiT(DIT_CONFIG, rngs=rngs)),
        "predictor": abstract(lambda rngs: MaskPredictor(PREDICTOR_CONFIG, rngs=rngs)),
    }
    if light_coder:
        modules["light_coder"] = abstract(lambda rngs: LightCoder(LIGHT_CONFIG, rngs=rngs))
    rng = np.random.default_rng(seed)
    flat = flatten({name: to_dict(module) for name, module in modules.items()})
    params = unflatten({key: _random(key, leaf.shape, rng) for key, leaf in flat.items()})
    texts = {"positive": _random("", (3, 8), rng), "negative": _random("", (5, 8), rng)}
    return params | {"text": texts}


def write_small_model(path: pathlib.Path, seed: int = 0, light_coder: bool = False) -> str:
    """Saves the model, with a light coder or without, into a new folder and returns its path."""
    config = {
        "vae": to_json(VAE_CONFIG),
        "dit": to_json(DIT_CONFIG),
        "predictor": to_json(PREDICTOR_CONFIG),
    }
    if light_coder:
        config["light_coder"] = to_json(LIGHT_CONFIG)
    store.save_model(path, random_params(seed, light_coder), config)
    return str(path)
