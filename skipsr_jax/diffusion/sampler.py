"""Euler steps down the path: x <- x + (u_next - u) v, and after the last timestep x_0.

The last step goes to timestep 0, where x + (0 - u) v is the schedule's x_0, so one formula serves
1 step and N. The model is called once for each timestep.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.types import Float, HostArray


def euler_step(
    noisy: Float[Array, "*shape"],
    predicted: Float[Array, "*shape"],
    timestep: Float[Array, ""] | float,
    next_timestep: Float[Array, ""] | float,
) -> Float[Array, "*shape"]:
    """x at ``next_timestep``, from x = ``noisy`` at ``timestep``, in float32."""
    stride = (jnp.asarray(next_timestep, jnp.float32) - timestep) / TERMINAL
    return noisy.astype(jnp.float32) + stride * predicted.astype(jnp.float32)


def euler_sample(
    predict: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    noise: Float[Array, "*shape"],
    timesteps: Float[HostArray, " steps"],
) -> Float[Array, "*shape"]:
    """x_0 from x_T = ``noise`` with velocities ``predict(x_t, timestep)``.

    A host loop: ``predict`` may be a jitted function that is compiled once for all timesteps.

    Raises:
      ValueError: timesteps that do not fall strictly from at most 1000 to above 0.
    """
    falls = bool((timesteps[1:] < timesteps[:-1]).all())
    if len(timesteps) == 0 or not falls or timesteps[0] > TERMINAL or timesteps[-1] <= 0:
        raise ValueError(
            f"timesteps must fall strictly within (0, {TERMINAL:g}], not {timesteps.tolist()}"
        )
    sample = noise.astype(jnp.float32)
    for now, after in zip(timesteps, [*timesteps[1:], 0.0], strict=True):
        now = jnp.asarray(now, jnp.float32)
        sample = euler_step(sample, predict(sample, now), now, jnp.asarray(after, jnp.float32))
    return sample
