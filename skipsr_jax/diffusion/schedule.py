"""The straight path between a clean sample and noise, and what a velocity says about both ends.

With u = timestep / 1000:  x_t = (1 - u) x_0 + u x_T  and  v = x_T - x_0  (rectified flow; SeedVR
calls it the lerp schedule with v prediction), so x_0 = x_t - u v and x_T = x_t + (1 - u) v.

Timesteps run from 0 (clean) to 1000 (noise). A timestep array's axes are the leading axes of the
sample: one number for everything, one a pack ``b``, one a token ``b n``. All of it in float32.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float

TERMINAL = 1000.0


def _share(timestep: Float[Array, "..."], sample: Float[Array, "..."]) -> Float[Array, "..."]:
    """u, with the axes that ``sample`` has beyond those of ``timestep``."""
    timestep = jnp.asarray(timestep, jnp.float32)
    if sample.shape[: timestep.ndim] != timestep.shape:
        raise ValueError(
            f"timestep {timestep.shape} must be the leading axes of the sample {sample.shape}"
        )
    return timestep.reshape(timestep.shape + (1,) * (sample.ndim - timestep.ndim)) / TERMINAL


def add_noise(
    clean: Float[Array, "*s"], noise: Float[Array, "*s"], timestep: Float[Array, "..."]
) -> Float[Array, "*s"]:
    """x_t."""
    clean, noise = clean.astype(jnp.float32), noise.astype(jnp.float32)
    share = _share(timestep, clean)
    return (1 - share) * clean + share * noise


def velocity(clean: Float[Array, "*s"], noise: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """v, the training target."""
    return noise.astype(jnp.float32) - clean.astype(jnp.float32)


def clean_from_velocity(
    predicted: Float[Array, "*s"], noisy: Float[Array, "*s"], timestep: Float[Array, "..."]
) -> Float[Array, "*s"]:
    """x_0 that the velocity ``predicted`` at x_t = ``noisy`` points to."""
    noisy = noisy.astype(jnp.float32)
    return noisy - _share(timestep, noisy) * predicted.astype(jnp.float32)


def noise_from_velocity(
    predicted: Float[Array, "*s"], noisy: Float[Array, "*s"], timestep: Float[Array, "..."]
) -> Float[Array, "*s"]:
    """x_T that the velocity ``predicted`` at x_t = ``noisy`` comes from."""
    noisy = noisy.astype(jnp.float32)
    return noisy + (1 - _share(timestep, noisy)) * predicted.astype(jnp.float32)
