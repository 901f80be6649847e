"""The condition on the low-quality input: its latent, with or without noise, and a mask channel.

The condition has 17 channels, which follow the 16 of the noisy latent: 16 of the input's latent and
a mask that is 1 where there is an input, which for restoration is everywhere, images included. In
training some samples may be without condition (condition dropout).
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.diffusion.schedule import TERMINAL, add_noise
from skipsr_jax.diffusion.timesteps import shift_factor, shift_timestep
from skipsr_jax.types import Bool, Float


def condition(
    latent: Float[Array, "*b c"], has_condition: Bool[Array, " _"] | None = None
) -> Float[Array, "*b c1"]:
    """[latent | 1]; all 17 channels are 0 for samples without condition.

    ``has_condition`` has an entry for each sample of the first axis; None means that all have one.
    A condition of zeros is what the network's text-to-video pretraining had.
    """
    channels = jnp.concatenate([latent, jnp.ones_like(latent[..., :1])], axis=-1)
    if has_condition is None:
        return channels
    return jnp.where(has_condition.reshape(-1, *(1,) * (latent.ndim - 1)), channels, 0)


def condition_timestep(strength: float, shift_shape: tuple[int, int, int]) -> Float[Array, ""]:
    """Timestep of the noise on the condition: 1000 ``strength``, shifted for a (t, h, w) latent."""
    if not 0 <= strength <= 1:
        raise ValueError(f"condition noise must lie in [0, 1], not {strength}")
    return shift_timestep(jnp.asarray(TERMINAL * strength, jnp.float32), shift_factor(shift_shape))


def add_condition_noise(
    latent: Float[Array, "*b t h w c"],
    noise: Float[Array, "*b t h w c"],
    strength: float,
    shift_shape: tuple[int, int, int] | None = None,
) -> Float[Array, "*b t h w c"]:
    """The condition latent with noise of ``strength``: 0.1 in SeedVR; 0, no noise, in SeedVR2.

    ``shift_shape`` sets the timestep's shift. None means the latent's own (t, h, w), which the
    formula is defined for. SeedVR's script passes (h, w, c): pass that to repeat its numbers.
    """
    shape = tuple(latent.shape[-4:-1]) if shift_shape is None else shift_shape
    return add_noise(latent, noise, condition_timestep(strength, shape))
