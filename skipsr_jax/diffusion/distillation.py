"""Progressive distillation (Salimans & Ho 2022, algorithm 2) on the straight path.

A student with n steps learns to reach in one Euler step what its teacher, with 2n steps, reaches in
two. Both run trailing timesteps, the student 1000 (1 - i / n), so the two halves of a student step
are equal, and the velocity between its ends is the mean of the teacher's two.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.types import Float, Int


def student_timesteps(key: Array, samples: int, steps: Int[Array, ""]) -> Float[Array, " k"]:
    """A timestep of ``uniform_trailing(steps)`` for each of k samples, every one equally likely.

    The draw is stratified: samples are spread evenly over the steps, the first ones at 1000.
    """
    position = (jnp.arange(samples) + jax.random.uniform(key)) / samples
    index = jnp.minimum(jnp.floor(position * steps), steps - 1)
    return TERMINAL * (1 - index / steps)


def two_step_velocity(
    predict: Callable[[Float[Array, "*shape"], Float[Array, "..."]], Float[Array, "*shape"]],
    noisy: Float[Array, "*shape"],
    timestep: Float[Array, "..."],
    stride: Float[Array, ""],
) -> Float[Array, "*shape"]:
    """The velocity that takes ``noisy`` in one step of ``stride`` to where two half steps end.

    Args:
      predict: the teacher's velocity at (x_t, timestep).
      timestep: of ``noisy``, at least ``stride``, as ``predict`` takes it.
      stride: length of the student's step in timesteps, 1000 / n.
    """
    half = stride / 2
    first = predict(noisy, timestep).astype(jnp.float32)
    middle = noisy.astype(jnp.float32) - half / TERMINAL * first
    second = predict(middle, timestep - half).astype(jnp.float32)
    return (first + second) / 2
