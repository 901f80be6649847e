"""Joint attention of a block on TPUs, where the heads of a token stay one row of channels.

The same computation as in ``models.dit.attention``. A TPU lays an array out in tiles of its last
two axes, so that an axis of heads means other tiles, and each change between the two a pass over
all tokens. Here queries, keys and values go from the projection to attention as rows (b, n, 3 a p):
one kernel normalises and rotates them (``kernels.qk_norm_rope``), one gather brings them into
windows, and attention takes its heads as columns of 128 channels (``kernels.attention``).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.kernels.attention import block_rows, merged_attention
from skipsr_jax.kernels.qk_norm_rope import qk_norm_rope
from skipsr_jax.kernels.quantized import Format, Quantized, quantize_rows
from skipsr_jax.models.dit.branch import Branch, Projected, Text
from skipsr_jax.models.dit.window_rows import (
    from_merged_windows,
    text_mean,
    to_merged_windows,
)
from skipsr_jax.parallel.activations import activation_sharding
from skipsr_jax.parallel.merged_heads import attend_by_merged_heads
from skipsr_jax.parallel.sequence import QKV, Attention, attend_by_packs, attend_by_windows
from skipsr_jax.tokens.layout import Layout
from skipsr_jax.types import Float


def attend_merged(
    projected: Float[Array, "b n i"],
    angles: Float[Array, "b n pairs"],
    text: QKV,
    branch: Branch,
    layout: Layout,
    shard_layouts: Layout | None,
    *,
    implementation: str | None,
) -> tuple[Float[Array, "b n d"] | Quantized, Float[Array, "b m d"]]:
    """The heads' results for video and text.

    Args:
      projected: queries, keys and values of stored tokens, before their norms.
      angles: of the stored tokens.
      text: queries, keys and values of the text, normalised and rotated.
      branch: the video's weights.
      layout: of the partition.
      shard_layouts: those of the token shards, where whole windows are assigned to them; else None.
      implementation: of the attention kernel.
    """
    packs = len(projected)
    prepare = functools.partial(_prepare, eps=branch.eps, dtype=branch.dtype)
    attend = functools.partial(_attend, head_dim=branch.head_dim, implementation=implementation)

    def attend_projected(video: Projected, text: Text, layout: Layout) -> Array:
        return attend(prepare(video, text[1], 1)[0], text, layout)

    collect = functools.partial(_collect, format=branch.format)
    attention = Attention(attend_projected, collect)
    video, all_text = (projected, angles), (text, branch.norm_weights(packs))
    if shard_layouts is not None:
        return attend_by_windows(attention, video, all_text, shard_layouts)
    if activation_sharding(packs).shards == 1:
        return attend_by_packs(attention, video, all_text, layout)
    # A device has some heads of a row: the row is quantised when it is whole.
    attention = Attention(attend, functools.partial(_collect, format=None))
    return attend_by_merged_heads(prepare, attention, video, all_text, layout, branch.heads)


def _prepare(
    video: Projected, weights: Float[Array, "b two p"], shards: int, *, eps: float, dtype: Any
) -> Float[Array, "shards b n i_shard"]:
    with jax.named_scope("qk_norm_rope"):
        return qk_norm_rope(video[0], weights[0], video[1], eps=eps, dtype=dtype, shards=shards)


def _attend(
    video: Float[Array, "b n i"],
    text: Text,
    layout: Layout,
    *,
    head_dim: int,
    implementation: str | None,
) -> Float[Array, "b rows d"]:
    """Attention in windows over video and text, as attention rows and padding."""
    with jax.named_scope("to_windows"):
        text_rows = rearrange(jnp.stack(text[0]), "three b m a p -> b m (three a p)")
        rows = block_rows(layout.gather.shape[1])
        qkv = to_merged_windows(video, text_rows.astype(video.dtype), layout, rows)
    with jax.named_scope("attention"):
        return merged_attention(
            qkv,
            layout.cu_seqlens,
            heads=qkv.shape[2] // (3 * head_dim),
            scale=head_dim**-0.5,
            implementation=implementation,
        )


def _collect(
    rows: Float[Array, "b rows d"], layout: Layout, *, format: Format | None
) -> tuple[Float[Array, "b n d"] | Quantized, Float[Array, "b m d"]]:
    """As ``attention.collect``, of rows whose heads are merged."""
    with jax.named_scope("from_windows"):
        video, text = from_merged_windows(rows, layout)
        if format is not None:
            video = quantize_rows(rows, format, layout.video_rows)
        return video, text_mean(text, layout).astype(rows.dtype)
