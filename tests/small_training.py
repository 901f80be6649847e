"""Training at the smallest size: pictures to learn from, networks that compile in a moment."""

import pathlib

import jax
import numpy as np
from PIL import Image

from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.params import abstract, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig

QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes most of the time here, running next to none."""

VAE_CONFIG = VAEConfig((8, 8, 8, 8), layers_per_block=1, norm_groups=4, residual_decoder=True)
DIT_CONFIG = DiTConfig(
    width=32, text_width=16, heads=2, head_dim=16, layers=2, mm_layers=1, expand_ratio=2,
    gated_mlp=True, pixel_rope=False, rope_dim=16, output_modulation=True, plain_text_at_last=True,
)  # fmt: skip
EIGHT_HEADS = DiTConfig(
    width=32, text_width=16, heads=8, head_dim=12, layers=2, mm_layers=2, expand_ratio=2,
    gated_mlp=False, pixel_rope=True, rope_dim=12, output_modulation=True, plain_text_at_last=False,
)  # fmt: skip
"""For meshes of up to eight devices along seq."""


def write_pictures(root: pathlib.Path) -> pathlib.Path:
    """Four pictures of 64 x 96, noise above and grey below."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        picture = np.full((64, 96, 3), 90, np.uint8)
        picture[:32] = rng.integers(0, 255, (32, 96, 3))
        Image.fromarray(picture).save(root / f"{name}.png")
    return root


def random_autoencoder() -> tuple[VAE, dict]:
    """The module as shapes, and numbers of a sensible size."""
    vae = abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs))
    rng = np.random.default_rng(1)
    numbers = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), to_dict(vae))
    return vae, {"vae": numbers}
