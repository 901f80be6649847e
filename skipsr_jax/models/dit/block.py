"""One transformer block of SeedVR on kept tokens: windowed joint attention, then a feed-forward.

Video and text are two branches, x + out(Attn(in(rms(x)))) then x + out(MLP(in(rms(x)))), that meet
in attention only: each window attends over its kept video tokens and all text of its sample; the
text's result is the mean over the windows. A block owns either one set of weights per branch or one
set for both.

Invariant: everything but attention is per token, so a token that is not stored costs nothing.
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from skipsr_jax.kernels.attention import varlen_attention
from skipsr_jax.models.dit.mlp import MLP, GatedMLP
from skipsr_jax.models.dit.modulation import ATTENTION, Modulation, modulate, per_token
from skipsr_jax.models.dit.modulation import MLP as FEED_FORWARD
from skipsr_jax.models.dit.rope import (
    language_frequencies,
    pixel_angles,
    pixel_frequencies,
    rotate,
    text_angles,
    window_angles,
)
from skipsr_jax.models.dit.window_rows import from_windows, to_windows
from skipsr_jax.models.layers.linear import linear
from skipsr_jax.models.layers.norms import RMSNorm, rms_normalize
from skipsr_jax.models.params import Buffer
from skipsr_jax.parallel.activations import (
    activation_sharding,
    constrain_text,
    constrain_tokens,
)
from skipsr_jax.parallel.overlapped_attention import attend_by_heads, project_head_chunks
from skipsr_jax.parallel.sequence import QKV, Attention, attend_by_packs, attend_by_windows
from skipsr_jax.tokens.layout import Layout
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.tokens.windows import REGULAR
from skipsr_jax.types import Bool, DType, Float, Int


@runtime_checkable
class BlockConfig(Protocol):
    """The numbers of a block, part of the model's configuration (``models.dit.DiTConfig``)."""

    width: int
    heads: int
    head_dim: int
    expand_ratio: int
    norm_eps: float
    gated_mlp: bool
    pixel_rope: bool
    rope_dim: int


@dataclasses.dataclass(frozen=True)
class Precision:
    """Compute dtype, and the dtype parameters are stored in."""

    dtype: DType
    param_dtype: DType


class Branch(nnx.Module):
    """The weights that one kind of token (video, text, or both) has in a block."""

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs, precision: Precision):
        d, inner = config.width, config.heads * config.head_dim
        dtype, param_dtype = precision.dtype, precision.param_dtype

        def vector(mean: float) -> nnx.Param:
            noise = jax.random.normal(rngs.params(), (d,), param_dtype) * d**-0.5
            return nnx.Param(mean + noise)

        self.attn_shift, self.attn_scale, self.attn_gate = vector(0.0), vector(1.0), vector(0.0)
        self.mlp_shift, self.mlp_scale, self.mlp_gate = vector(0.0), vector(1.0), vector(0.0)
        self.qkv = linear(d, 3 * inner, rngs=rngs, dtype=dtype, param_dtype=param_dtype, bias=False)
        norm = functools.partial(RMSNorm, config.head_dim, config.norm_eps, apart=True)
        self.norm_q, self.norm_k = (norm(param_dtype=param_dtype) for _ in range(2))
        self.proj_out = linear(inner, d, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        feed_forward = GatedMLP if config.gated_mlp else MLP
        self.mlp = feed_forward(
            d, config.expand_ratio, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.heads = config.heads
        self.eps = config.norm_eps

    def entering(
        self, x: Float[Array, "b n d"], m: Modulation, modulated: Bool[Array, ""]
    ) -> Float[Array, "b n d"]:
        """What the projection to heads sees: normed, and modulated where asked."""
        normed = rms_normalize(x, self.eps)
        shifted = modulate(normed, m, self.attn_shift, self.attn_scale)
        return jnp.where(modulated, shifted, normed).astype(self.qkv.dtype)

    def qkv_kernel(self) -> Float[Array, "d i"]:
        """Of the projection to queries, keys and values of all heads."""
        return self.qkv.kernel[...].astype(self.qkv.dtype)

    def qkv_heads(self, projected: Float[Array, "b n i"]) -> QKV:
        """Queries and keys (normalised per head, float32) and values, from their projection."""
        pattern = "b n (three a p) -> three b n a p"
        q, k, v = rearrange(projected, pattern, three=3, p=self.norm_q.scale.shape[-1])
        return self.norm_q(q), self.norm_k(k), v

    def attention_out(
        self, x: Float[Array, "b n d"], heads: Float[Array, "b n a p"], m: Modulation
    ) -> Float[Array, "b n d"]:
        """The residual update after attention."""
        update = self.proj_out(rearrange(heads, "b n a p -> b n (a p)"))
        return _gated_add(x, update, m, self.attn_gate)

    def feed_forward(self, x: Float[Array, "b n d"], m: Modulation) -> Float[Array, "b n d"]:
        """The residual update of the feed-forward."""
        entering = modulate(rms_normalize(x, self.eps), m, self.mlp_shift, self.mlp_scale)
        return _gated_add(x, self.mlp(entering), m, self.mlp_gate)


def _gated_add(x: Array, update: Array, m: Modulation, gate: nnx.Param) -> Array:
    gates = m.gate + gate[...].astype(jnp.float32)
    return (x.astype(jnp.float32) + update.astype(jnp.float32) * gates).astype(x.dtype)


class Block(nnx.Module):
    """See the module. A shared block has one ``Branch``, ``all``; others have ``vid``, ``txt``."""

    def __init__(self, config: BlockConfig, *, shared: bool, rngs: nnx.Rngs, precision: Precision):
        names = ("all",) if shared else ("vid", "txt")
        for name in names:
            setattr(self, name, Branch(config, rngs=rngs, precision=precision))
        frequencies = pixel_frequencies if config.pixel_rope else language_frequencies
        self.rope_freqs = Buffer(jnp.asarray(frequencies(config.rope_dim)))
        self.shared = shared
        self.pixel_rope = config.pixel_rope
        self.heads, self.scale = config.heads, config.head_dim**-0.5
        self.dtype = precision.dtype

    def __call__(
        self,
        vid: Float[Array, "b n d"],
        txt: Float[Array, "b m d"],
        embedding: Float[Array, "b k e"],
        plan: TokenPlan,
        shifted: Int[Array, ""] | int,
        modulate_text: Bool[Array, ""],
        attention: str | None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        """Video and text after the block.

        Args:
          vid: stored tokens. txt: the text of all samples, ``l`` slots each.
          embedding: of the timestep, per sample.
          plan: who attends to whom. shifted: which of its partitions, 0 or 1; known beforehand
            where the plan has shard layouts.
          modulate_text: False in the last block of SeedVR2-3B, which norms its text but neither
            shifts nor scales it before attention.
          attention: implementation of the attention kernel, None to pick.
        """
        of_video, of_text = self._branches()
        samples = plan.text_length.shape[1]
        text_sample = jnp.repeat(jnp.arange(samples), txt.shape[1] // samples)
        text_sample = jnp.broadcast_to(text_sample, txt.shape[:2])

        vid_m = per_token(embedding, plan.sample, ATTENTION)
        txt_m = per_token(embedding, text_sample, ATTENTION)
        vid_in = of_video.entering(vid, vid_m, jnp.asarray(True))
        txt_in = of_text.entering(txt, txt_m, modulate_text)
        vid_out, txt_out = self._attend(vid_in, txt_in, plan, shifted, attention)

        vid = of_video.attention_out(vid, vid_out, vid_m)
        txt = of_text.attention_out(txt, txt_out, txt_m)
        vid = of_video.feed_forward(vid, per_token(embedding, plan.sample, FEED_FORWARD))
        txt = of_text.feed_forward(txt, per_token(embedding, text_sample, FEED_FORWARD))
        return constrain_tokens(vid), constrain_text(txt)

    def _branches(self) -> tuple[Branch, Branch]:
        """The weights of video and of text."""
        return (self.all, self.all) if self.shared else (self.vid, self.txt)

    def _attend(
        self,
        vid: Float[Array, "b n d"],
        txt: Float[Array, "b m d"],
        plan: TokenPlan,
        shifted: Int[Array, ""] | int,
        attention: str | None,
    ) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
        """The heads' results, from what enters the projections."""
        of_video, of_text = self._branches()
        vid_angles, txt_angles = self._angles(plan, shifted, txt.shape[1])
        text = self._rotated(of_text.qkv_heads(txt @ of_text.qkv_kernel()), txt_angles)
        rows = functools.partial(_attend_in_windows, scale=self.scale, implementation=attention)
        attend = Attention(rows, _results)
        layout = jax.tree.map(lambda array: _of_partition(array, shifted), plan.layout)
        assigned = plan.shard_layouts is not None and shifted == REGULAR
        if assigned or activation_sharding(len(vid)).shards == 1:
            video = self._rotated(of_video.qkv_heads(vid @ of_video.qkv_kernel()), vid_angles)
            if assigned:
                return attend_by_windows(attend, video, text, plan.shard_layouts)
            return attend_by_packs(attend, video, text, layout)

        def finish(projected: Array, angles: Array) -> QKV:
            return self._rotated(of_video.qkv_heads(projected), angles)

        kernel = of_video.qkv_kernel()
        chunks = project_head_chunks(vid, kernel, vid_angles, self.heads, finish)
        return attend_by_heads(attend, chunks, text, layout)

    def _angles(
        self, plan: TokenPlan, shifted: Int[Array, ""] | int, text_rows: int
    ) -> tuple[Array, Array | None]:
        """By how much heads turn at each stored token, and at each row of text (None: not)."""
        freqs, position = self.rope_freqs[...], _of_partition(plan.position, shifted)
        if self.pixel_rope:
            return pixel_angles(position, _of_partition(plan.extent, shifted), freqs), None
        length = jnp.take_along_axis(plan.text_length, plan.sample, axis=1)
        samples = plan.text_length.shape[1]
        places = jnp.tile(text_angles(text_rows // samples, freqs), (samples, 1))
        return window_angles(position, length, freqs), places[None]

    def _rotated(self, qkv: QKV, angles: Array | None) -> QKV:
        """Queries and keys turned, values as they are, in the dtype of the kernel."""
        q, k, v = qkv
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q.astype(self.dtype), k.astype(self.dtype), v.astype(self.dtype)


def _of_partition(array: Array, shifted: Int[Array, ""] | int) -> Array:
    """What a plan's array says of one partition."""
    return jax.lax.dynamic_index_in_dim(array, shifted, axis=1, keepdims=False)


def _attend_in_windows(
    vid: QKV, txt: QKV, layout: Layout, *, scale: float, implementation: str | None
) -> Float[Array, "b r a p"]:
    """Attention in windows over video and text, in the rows of the windows."""
    rows = [to_windows(a, b, layout) for a, b in zip(vid, txt, strict=True)]
    return varlen_attention(*rows, layout.cu_seqlens, scale=scale, implementation=implementation)


def _results(
    rows: Float[Array, "b r a p"], layout: Layout
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """What each stored token and each text token gets: text the mean over its windows."""
    video, text = from_windows(rows, layout)
    share = layout.text_weight.max(axis=2)  # of one window, the same for all of a sample
    shares = jnp.repeat(share, text.shape[1] // share.shape[1], axis=1)
    return video, (text * shares[..., None, None]).astype(rows.dtype)
