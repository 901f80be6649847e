"""The weights of one kind of token in a block, and everything of a block but attention itself.

A branch updates its tokens twice: x + gate * out(Attn(in(rms(x)))) and x + gate * MLP(in(rms(x))).
``in`` scales and shifts by the timestep's modulation and learned vectors, and so is ``gate`` made.

Invariant: everything here is per token, so a token that is not stored costs nothing.
"""

import functools
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from skipsr_jax.kernels.quantized import (
    Format,
    Quantized,
    Residual,
    multiply,
    quantize_normalized,
    quantize_rows,
)
from skipsr_jax.models.dit.config import DiTConfig
from skipsr_jax.models.dit.mlp import MLP, GatedMLP
from skipsr_jax.models.dit.modulation import Modulation, modulate, scale_and_shift
from skipsr_jax.models.dit.remat import OUTPUTS
from skipsr_jax.models.layers.initial import around, drawn
from skipsr_jax.models.layers.linear import linear
from skipsr_jax.models.layers.norms import RMSNorm, rms_normalize
from skipsr_jax.parallel.sequence import QKV
from skipsr_jax.types import Bool, DType, Float

Projected = tuple[Float[Array, "b n i"], Float[Array, "b n pairs"]]
"""The projection of stored tokens, and their rotary angles."""
Text = tuple[QKV, Float[Array, "b two p"]]
"""The text's queries, keys and values, and each pack's copy of the video's norm weights."""


class Branch(nnx.Module):
    """The weights that one kind of token (video, text, or both) has in a block."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        """Args: as ``Block``."""
        d, inner = config.width, config.heads * config.head_dim

        def vector(mean: float) -> nnx.Param:
            return drawn(around(mean), rngs, (d,), param_dtype)

        self.attn_shift, self.attn_scale, self.attn_gate = vector(0.0), vector(1.0), vector(0.0)
        self.mlp_shift, self.mlp_scale, self.mlp_gate = vector(0.0), vector(1.0), vector(0.0)
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "format": format}
        self.qkv = linear(d, 3 * inner, rngs=rngs, use_bias=False, **kinds)
        norm = functools.partial(RMSNorm, config.head_dim, config.norm_eps, rngs=rngs, unfused=True)
        self.norm_q, self.norm_k = norm(param_dtype=param_dtype), norm(param_dtype=param_dtype)
        self.proj_out = linear(inner, d, rngs=rngs, **kinds)
        mlp = GatedMLP if config.gated_mlp else MLP
        self.mlp = mlp(d, config.expand_ratio, rngs=rngs, **kinds)
        self.heads, self.head_dim = config.heads, config.head_dim
        self.eps, self.dtype, self.format = config.norm_eps, dtype, format

    def attention_input(
        self, x: Float[Array, "b n d"], m: Modulation, modulated: Bool[Array, ""]
    ) -> Float[Array, "b n d"] | Quantized:
        """What the projection to heads receives: x normalised, and modulated where asked."""
        if self.format is not None:
            scale, shift = scale_and_shift(m, self.attn_shift, self.attn_scale)
            scale, shift = jnp.where(modulated, scale, 1), jnp.where(modulated, shift, 0)
            return quantize_normalized(x, scale, shift, self.eps, self.format)
        normed = rms_normalize(x, self.eps)
        shifted = modulate(normed, m, self.attn_shift, self.attn_scale)
        return jnp.where(modulated, shifted, normed).astype(self.qkv.dtype)

    def qkv_kernel(self) -> Any:
        """The kernel of the projection to queries, keys and values of all heads.

        Every array of it has the output channels last.
        """
        if self.format is not None:
            values, scale = self.qkv.kernel()
            return values.T, scale
        return self.qkv.columns()

    def project(self, x: Float[Array, "b n d"] | Quantized, kernel: Any) -> Float[Array, "b n i"]:
        """The projection to heads. ``kernel``: columns of ``qkv_kernel``."""
        if self.format is None:
            return self.qkv.product(x, kernel)
        values, scale = kernel
        return multiply(x, Quantized(values.T, scale), self.dtype).scaled()

    def qkv_heads(self, projected: Float[Array, "b n i"]) -> QKV:
        """Queries and keys (normalised per head, float32) and values, from their projection."""
        pattern = "b n (three a p) -> three b n a p"
        q, k, v = rearrange(projected, pattern, three=3, p=self.norm_q.scale.shape[-1])
        return self.norm_q(q), self.norm_k(k), v

    def norm_weights(self, packs: int) -> Float[Array, "b two p"]:
        """Those of the norms of queries and of keys in float32, a copy for each pack."""
        scales = [norm.scale[...].astype(jnp.float32) for norm in (self.norm_q, self.norm_k)]
        return jnp.broadcast_to(jnp.stack(scales), (packs, 2, self.head_dim))

    def add_attention(
        self, x: Float[Array, "b n d"], heads: Float[Array, "b n *heads"] | Quantized, m: Modulation
    ) -> Float[Array, "b n d"] | Residual:
        """x after the residual update of attention, from the heads' results.

        With quantised products ``heads`` may be quantised already, as rows of all heads, and the
        sum is left to what reads it.
        """
        if not isinstance(heads, Quantized):
            heads = heads.reshape(*heads.shape[:2], -1)
        if self.format is None:
            return _gated_add(x, _output(self.proj_out(heads)), m, self.attn_gate)
        if not isinstance(heads, Quantized):
            heads = quantize_rows(heads, self.format)
        gate = m.gate + self.attn_gate[...].astype(jnp.float32)
        if gate.shape[1] > 1:  # of each token
            return _gated_add(x, self.proj_out(heads), m, self.attn_gate)
        return Residual(x, self.proj_out.product(heads), self.proj_out.bias[...], gate)

    def add_mlp(self, x: Float[Array, "b n d"] | Residual, m: Modulation) -> Float[Array, "b n d"]:
        """x after the residual update of the MLP."""
        if self.format is not None:
            scale, shift = scale_and_shift(m, self.mlp_shift, self.mlp_scale)
            mlp_input = quantize_normalized(x, scale, shift, self.eps, self.format)
            x = x.sum() if isinstance(x, Residual) else x
            return _gated_add(x, self.mlp(mlp_input), m, self.mlp_gate)
        mlp_input = modulate(rms_normalize(x, self.eps), m, self.mlp_shift, self.mlp_scale)
        return _gated_add(x, _output(self.mlp(mlp_input)), m, self.mlp_gate)


def _output(update: Array) -> Array:
    return checkpoint_name(update, OUTPUTS)


def _gated_add(x: Array, update: Array, m: Modulation, gate: nnx.Param) -> Array:
    gates = m.gate + gate[...].astype(jnp.float32)
    return (x.astype(jnp.float32) + update.astype(jnp.float32) * gates).astype(x.dtype)
