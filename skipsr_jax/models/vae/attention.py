"""Self-attention over the pixels of each frame, at the lowest resolution of the autoencoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.initial import or_shape
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.parallel.spatial import attend_within_frames
from skipsr_jax.types import DType, Float

_MAX_SCORES = 2**28
"""Attention scores held at a time, in float32: 1 GiB."""


def _attend(
    q: Float[Array, "f queries c"], k: Float[Array, "f keys c"], v: Float[Array, "f keys c"]
) -> Float[Array, "f queries c"]:
    """One head within each frame, a block of queries at a time."""
    channels, block = q.shape[2], max(1, min(q.shape[1], _MAX_SCORES // k.shape[1]))

    def attend_in_frame(frame):
        q, k, v = frame

        def attend(row):
            scores = jnp.matmul(k, row, preferred_element_type=jnp.float32) * channels**-0.5
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max()))
            mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (mixed / weights.sum()).astype(v.dtype)  # one pass less than softmax's own

        return jax.lax.map(attend, q, batch_size=block)

    return jax.lax.map(attend_in_frame, (q, k, v))


class FrameAttention(nnx.Module):
    """x + one-head self-attention over the pixels of each frame, after a group norm."""

    def __init__(
        self, channels: int, groups: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ):
        def linear() -> nnx.Linear:
            return nnx.Linear(
                channels,
                channels,
                kernel_init=or_shape(jax.nn.initializers.lecun_normal()),
                bias_init=or_shape(jax.nn.initializers.zeros),
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )

        self.group_norm = GroupNorm(channels, groups, rngs=rngs, param_dtype=param_dtype)
        self.to_q = linear()
        self.to_k = linear()
        self.to_v = linear()
        self.to_out = nnx.List([linear()])

    def __call__(
        self, x: Float[Array, "b f h w c"], cache: Cache = None
    ) -> tuple[Float[Array, "b f h w c"], Cache]:
        """It has no cache: frames do not attend to each other."""
        y = self.group_norm(x)
        y = attend_within_frames(_attend, self.to_q(y), self.to_k(y), self.to_v(y))
        return x + self.to_out[0](y), ()
