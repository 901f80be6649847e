"""An estimate of the device memory that a slice takes in the light coder, counted from shapes."""

import jax.numpy as jnp

from skipsr_jax.geometry import TIME_FACTOR
from skipsr_jax.models.light_coder.model import LightCoder
from skipsr_jax.models.params import nbytes, to_dict

_ALIVE = 4
"""Arrays of the level at 1/2 resolution that are alive together: what a block takes, what is
between its convolutions, what it gives, and one for fragmentation and small arrays."""


def param_bytes(coder: LightCoder) -> int:
    """Bytes of the parameters of a real or abstract light coder."""
    return nbytes(to_dict(coder))


def slice_bytes(coder: LightCoder, height: int, width: int, latents: int) -> int:
    """The peak while a slice of ``latents`` latent frames of so many pixels is coded, parameters
    included. ``coder`` may be abstract: this runs nothing."""
    config, frames = coder.config, TIME_FACTOR * latents
    half = max(config.encoder_channels[0], config.decoder_channels[0])
    halo = max(2 * config.decoder_quarter_halo, config.encoder_halo // 2)
    area = (height // 2 + 2 * halo) * (width // 2 + 2 * halo)
    arrays = _ALIVE * half * area * jnp.dtype(coder.dtype).itemsize
    inputs_and_outputs = 2 * 3 * 4 * height * width  # float32
    return param_bytes(coder) + frames * (arrays + inputs_and_outputs)
