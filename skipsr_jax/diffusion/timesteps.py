"""Timesteps: trailing ones for sampling, logit-normal ones for training, and the shift of both.

A larger clip hides less of its content under the same noise, so SeedVR moves timesteps towards
noise by a factor that grows with the clip (after Esser et al. 2024, section 5.3.2). The released
inference uses the shift for the noise on the condition only, not for the sampling timesteps;
training timesteps follow its configuration file: logit-normal(0, 1), shifted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.geometry import SPACE_FACTOR, frame_count
from skipsr_jax.types import Float, HostArray

# (size, factor) at two points of each line. The size is in pixels for images, else in pixels times
# frames.
_IMAGE_LINE = ((256**2, 1.0), (1024**2, 3.2))
_VIDEO_LINE = ((256**2 * 37, 1.0), (1280 * 720 * 145, 5.0))


def uniform_trailing(steps: int) -> Float[HostArray, " steps"]:
    """1000 (1 - i / steps) for i = 0 .. steps - 1: exactly ``steps`` of them, the first is 1000."""
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, not {steps}")
    return (TERMINAL * (1 - np.arange(steps) / steps)).astype(np.float32)


def shift_factor(latent_shape: tuple[int, int, int]) -> float:
    """Factor of a latent (t, h, w). It is not clamped: small videos get less than 1."""
    latents, height, width = latent_shape
    frames = frame_count(latents)
    size = height * width * SPACE_FACTOR**2
    line = _IMAGE_LINE
    if frames > 1:
        size, line = size * frames, _VIDEO_LINE
    (low, at_low), (high, at_high) = line
    return at_low + (at_high - at_low) * (size - low) / (high - low)


def shift_timestep(
    timestep: Float[Array, "*shape"], factor: float | Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """u -> f u / (1 + (f - 1) u), which keeps both ends and, for f > 1, moves all else to noise."""
    u = jnp.asarray(timestep, jnp.float32) / TERMINAL
    return factor * u / (1 + (factor - 1) * u) * TERMINAL


def logit_normal_timestep(normal: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Timestep of a standard normal number: 1000 sigmoid(normal)."""
    return TERMINAL * jax.nn.sigmoid(normal.astype(jnp.float32))


def sample_training_timesteps(key: Array, factor: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """One shifted logit-normal(0, 1) timestep for each shift factor."""
    return shift_timestep(logit_normal_timestep(jax.random.normal(key, factor.shape)), factor)
