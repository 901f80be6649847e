"""What the network is told about the low-quality input: its latent, maybe noised, and a mask.

The condition has 17 channels behind the 16 of the noisy latent: 16 of the input's latent and 1 that
says where there is one, which for restoration is everywhere, images included. In training some
samples may have none.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.diffusion.schedule import TERMINAL, add_noise
from skipsr_jax.diffusion.timesteps import shift_factor, shift_timestep
from skipsr_jax.types import Bool, Float


def condition(
    latent: Float[Array, "*b c"], present: Bool[Array, " _"] | None = None
) -> Float[Array, "*b c1"]:
    """[latent | 1]; all 17 channels are 0 where a sample's input is not ``present``.

    ``present`` counts along the first axis; None: all are. Nothing to go by is what the network's
    text-to-video pretraining had.
    """
    both = jnp.concatenate([latent, jnp.ones_like(latent[..., :1])], axis=-1)
    if present is None:
        return both
    return jnp.where(present.reshape(-1, *(1,) * (latent.ndim - 1)), both, 0)


def condition_timestep(strength: float, shift_shape: tuple[int, int, int]) -> Float[Array, ""]:
    """Timestep of the noise on the condition: 1000 ``strength``, shifted for a (t, h, w) latent."""
    if not 0 <= strength <= 1:
        raise ValueError(f"condition noise must lie in [0, 1], not {strength}")
    return shift_timestep(jnp.asarray(TERMINAL * strength, jnp.float32), shift_factor(shift_shape))


def add_condition_noise(
    latent: Float[Array, "*b f h w c"],
    noise: Float[Array, "*b f h w c"],
    strength: float,
    shift_shape: tuple[int, int, int] | None = None,
) -> Float[Array, "*b f h w c"]:
    """Noise on the condition latent: 0.1 in SeedVR; 0 in SeedVR2, which leaves it as it is.

    ``shift_shape`` sets the timestep's shift. None means the latent's own (f, h, w), which is what
    the formula wants; SeedVR's script hands it (h, w, c), so pass that to repeat its numbers.
    """
    shape = tuple(latent.shape[-4:-1]) if shift_shape is None else shift_shape
    return add_noise(latent, noise, condition_timestep(strength, shape))
