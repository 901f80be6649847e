"""Low-rank adapters of dense layers: LoRA (Hu et al. 2021, arXiv 2106.09685).

An adapted layer computes x W + scale * (dropout(x) A) B with a frozen kernel W (i, o) and two small
trained ones, A (i, rank) and B (rank, o). B begins as zeros, so that the adapted network begins as
the frozen one. Which layers of a network are adapted, ``models.adapter`` says.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.initial import Buffer
from skipsr_jax.types import DType, Float

KEY_WORDS = 2
"""Numbers of 32 bits in a key of dropout."""
_GENERATOR = "threefry2x32"
"""Takes keys of ``KEY_WORDS``, and draws the same numbers on any mesh."""


class LoRA(nnx.Module):
    """The adapter of one dense layer. Parameters, in float32: ``lora_a`` (i, rank), ``lora_b``
    (rank, o).

    With dropout it has two buffers, which each step sets: ``dropout_key`` (2,), uint32, and
    ``dropout_rate`` (), which is 0 in evaluation.
    """

    def __init__(
        self,
        lora_a: nnx.Param,
        lora_b: nnx.Param,
        *,
        scale: float,
        dtype: DType,
        dropout: tuple[Buffer, Buffer] | None = None,
    ):
        """Args:
        scale: factor on the product, alpha / rank. dtype: of the computation.
        dropout: the buffers of dropout; None: without.
        """
        self.lora_a, self.lora_b = lora_a, lora_b
        self.scale, self.dtype, self.has_dropout = scale, dtype, dropout is not None
        if dropout is not None:
            self.dropout_key, self.dropout_rate = dropout

    def reduced(self, x: Float[Array, "b n i"]) -> Float[Array, "b n rank"]:
        """dropout(x) A."""
        if self.has_dropout:
            key = jax.random.wrap_key_data(self.dropout_key[...], impl=_GENERATOR)
            rate = self.dropout_rate[...]
            keep = jax.random.uniform(key, x.shape) >= rate
            x = jnp.where(keep, x / (1 - rate), 0)
        return x.astype(self.dtype) @ self.lora_a[...].astype(self.dtype)

    def columns(self) -> Float[Array, "rank o"]:
        """scale * B, whose columns belong to those of the layer's kernel."""
        return (self.lora_b[...] * self.scale).astype(self.dtype)
