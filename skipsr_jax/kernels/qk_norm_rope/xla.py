"""Norm and rotation of queries and keys in plain XLA: the reference, for any device.

Channels are rotated in neighbouring pairs: (a, b) -> (a cos - b sin, b cos + a sin).
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.kernels.qk_norm_rope.problem import QKNormRopeProblem
from skipsr_jax.types import Float


def qk_norm_rope(
    projected: Float[Array, "b n i"],
    weights: Float[Array, "two p"],
    angles: Float[Array, "#b n pairs"],
    problem: QKNormRopeProblem,
) -> Float[Array, "shards b n i_shard"]:
    """See ``api.qk_norm_rope``."""
    pattern = "b n (three a p) -> three b n a p"
    q, k, v = rearrange(projected, pattern, three=3, p=weights.shape[1])
    q, k = (
        rotate(_normalized(x, problem.eps) * weight, angles)
        for x, weight in zip((q, k), weights, strict=True)
    )
    qkv = jnp.stack([x.astype(problem.dtype) for x in (q, k, v)])
    pattern = "three b n (shards a) p -> shards b n (three a p)"
    return rearrange(qkv, pattern, shards=problem.shards)


def _normalized(x: Float[Array, "*rows p"], eps: float) -> Float[Array, "*rows p"]:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def rotate(
    x: Float[Array, "b n a p"], angles: Float[Array, "#b n pairs"]
) -> Float[Array, "b n a p"]:
    """``x`` with the first pairs of its last axis rotated, in float32; others are left alone."""
    unrotated = x.shape[-1] // 2 - angles.shape[-1]
    angles = jnp.pad(angles, ((0, 0), (0, 0), (0, unrotated)))
    return jax.lax.platform_dependent(
        x.astype(jnp.float32), angles, tpu=_rotated_channels, default=_rotated_pairs
    )


def _rotated_pairs(x: Float[Array, "b n a p"], angles: Float[Array, "#b n half"]) -> Array:
    """Each channel from itself and its neighbour: one pass over memory, no slices and stacks."""
    angles = angles[..., None, :, None]
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    rotated = pairs[..., ::-1] * jnp.float32([-1, 1])
    return (pairs * jnp.cos(angles) + rotated * jnp.sin(angles)).reshape(x.shape)


def _rotated_channels(x: Float[Array, "b n a p"], angles: Float[Array, "#b n half"]) -> Array:
    """``_rotated_pairs`` without an axis of 2, for which a TPU would change the array's layout."""
    angles = jnp.repeat(angles, 2, axis=-1)[..., None, :]
    ends = ((0, 0),) * 3
    after = jnp.pad(x[..., 1:], (*ends, (0, 1)))
    before = jnp.pad(x[..., :-1], (*ends, (1, 0)))
    rotated = jnp.where(jnp.arange(x.shape[-1]) % 2 == 0, -after, before)
    return x * jnp.cos(angles) + rotated * jnp.sin(angles)
