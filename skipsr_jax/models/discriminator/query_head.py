"""A learned query that pools the kept tokens of a sample by cross-attention.

x = q + out(Attn(rms(q), rms(tokens))), then x + MLP(rms(x)), with q the learned query. Keys and the
query are normalised per head, as in the transformer's own blocks.

Invariant: a sample's result depends on its own kept tokens alone; padding may hold any numbers.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from skipsr_jax.models.dit.config import DiTConfig
from skipsr_jax.models.dit.mlp import MLP, GatedMLP
from skipsr_jax.models.layers.initial import drawn
from skipsr_jax.models.layers.linear import Linear, linear
from skipsr_jax.models.layers.norms import RMSNorm
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import Bool, DType, Float


class QueryHead(nnx.Module):
    """See the module and ``__call__``."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType):
        """Args: ``dtype``: of computations. ``param_dtype``: of stored parameters."""
        d, inner, eps = config.width, config.heads * config.head_dim, config.norm_eps

        def layer(in_features: int, out_features: int, use_bias: bool = False) -> Linear:
            return linear(
                in_features,
                out_features,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                use_bias=use_bias,
            )

        def norm(width: int) -> RMSNorm:
            return RMSNorm(width, eps, rngs=rngs, param_dtype=param_dtype)

        self.query = drawn(jax.random.normal, rngs, (d,), param_dtype)
        self.query_norm, self.token_norm, self.mlp_norm = norm(d), norm(d), norm(d)
        self.to_q = layer(d, inner)
        self.to_kv = layer(d, 2 * inner)
        self.norm_q, self.norm_k = norm(config.head_dim), norm(config.head_dim)
        self.proj_out = layer(inner, d, use_bias=True)
        mlp = GatedMLP if config.gated_mlp else MLP
        self.mlp = mlp(d, config.expand_ratio, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.heads, self.scale = config.heads, config.head_dim**-0.5

    def __call__(self, tokens: Float[Array, "b n d"], plan: TokenPlan) -> Float[Array, "b k d"]:
        """The query's result for each of the k samples of each pack, float32."""
        samples = plan.text_length.shape[1]
        own = (plan.sample[:, None] == jnp.arange(samples)[:, None]) & plan.valid[:, None]
        tokens = jnp.where(plan.valid[..., None], tokens, 0)
        k, v = rearrange(
            self.to_kv(self.token_norm(tokens)), "b n (two a p) -> two b n a p", two=2, a=self.heads
        )
        query = self.query[...].astype(jnp.float32)
        q = self.norm_q(rearrange(self.to_q(self.query_norm(query)), "(a p) -> a p", a=self.heads))
        scores = jnp.einsum("ap,bnap->ban", q, self.norm_k(k)) * self.scale
        weights = _softmax_within(scores[:, None], own[:, :, None])
        pooled = jnp.einsum("bkan,bnap->bkap", weights.astype(v.dtype), v)
        x = query + self.proj_out(rearrange(pooled, "b k a p -> b k (a p)")).astype(jnp.float32)
        return x + self.mlp(self.mlp_norm(x)).astype(jnp.float32)


def _softmax_within(
    scores: Float[Array, "b #k a n"], mask: Bool[Array, "b k #a n"]
) -> Float[Array, "b k a n"]:
    """Softmax over the tokens in the mask; all zero where there is none."""
    top = jnp.max(scores, axis=-1, keepdims=True, where=mask, initial=-1e30)
    weights = jnp.exp(jnp.where(mask, scores - jax.lax.stop_gradient(top), -jnp.inf))
    return weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
