"""Joining frames with their past in plain XLA: the reference, and the way everywhere."""

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.frames.problem import Ends
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine, activated
from skipsr_jax.types import Float


def last_frames(x: Float[Array, "b f h w c"], count: int) -> Float[Array, "b p h w c"]:
    """Copies of the last ``count`` frames, to be remembered; of a single frame so many.

    The barrier makes XLA copy from x, once it is there. Left alone it copies from what makes x,
    which then cannot be computed into its place, and to and fro: the new memory would have to be
    ready before the old one is free.
    """
    x = jax.lax.optimization_barrier(x)
    return jnp.repeat(x, count, axis=1) if x.shape[1] == 1 else x[:, x.shape[1] - count :]


def join_frames(
    x: Float[Array, "b f h w c"],
    affine: Affine | None,
    past: Float[Array, "b p h w c"],
    ends: Ends = (0, 0),
) -> tuple[Float[Array, "b g v u c"], Float[Array, "b p h w c"]]:
    """See ``api.join_frames``."""
    joined = jnp.concatenate([past.astype(x.dtype), activated(x, affine)], axis=1)
    after = last_frames(joined, past.shape[1])
    bottom, right = ends
    return jnp.pad(joined, ((0, 0), (0, 0), (0, bottom), (0, right), (0, 0))), after
