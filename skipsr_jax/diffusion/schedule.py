"""The straight path between a clean sample and noise, its velocity, and x_0 from a velocity.

With u = timestep / 1000:  x_t = (1 - u) x_0 + u x_T  and  v = x_T - x_0  (rectified flow; SeedVR
calls it the lerp schedule with v prediction), so x_0 = x_t - u v.

Timesteps run from 0 (clean) to 1000 (noise). A timestep array's axes are the leading axes of the
sample: one number for everything, one a pack ``b``, one a token ``b n``. Computations are in
float32.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

TERMINAL = 1000.0
"""The timestep of pure noise."""


def _fraction(timestep: Float[Array, "..."], sample: Float[Array, "..."]) -> Float[Array, "..."]:
    """u = timestep / 1000, with axes of 1 for those that ``sample`` has beyond ``timestep``."""
    timestep = jnp.asarray(timestep, jnp.float32)
    if sample.shape[: timestep.ndim] != timestep.shape:
        raise ValueError(
            f"timestep {timestep.shape} must be the leading axes of the sample {sample.shape}"
        )
    return timestep.reshape(timestep.shape + (1,) * (sample.ndim - timestep.ndim)) / TERMINAL


def add_noise(
    clean: Float[Array, "*shape"], noise: Float[Array, "*shape"], timestep: Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """x_t = (1 - u) x_0 + u x_T."""
    clean, noise = clean.astype(jnp.float32), noise.astype(jnp.float32)
    u = _fraction(timestep, clean)
    return (1 - u) * clean + u * noise


def velocity(
    clean: Float[Array, "*shape"], noise: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """v = x_T - x_0, the training target."""
    return noise.astype(jnp.float32) - clean.astype(jnp.float32)


def clean_from_velocity(
    predicted: Float[Array, "*shape"], noisy: Float[Array, "*shape"], timestep: Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """x_0 that the velocity ``predicted`` at x_t = ``noisy`` points to."""
    noisy = noisy.astype(jnp.float32)
    return noisy - _fraction(timestep, noisy) * predicted.astype(jnp.float32)
