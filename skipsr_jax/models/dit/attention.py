"""Joint attention of a block: in each window, kept video tokens and the text of their sample.

Queries, keys and values come from the branches' projections and are rotated by position. A window
attends over its kept video tokens and all text of its sample; the text's result is the mean over
the sample's windows. How several devices share this is in ``skipsr_jax.parallel``; here one of its
forms is chosen.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from einops import rearrange
from jax import Array

from skipsr_jax.kernels.attention import merged_heads_run, varlen_attention
from skipsr_jax.kernels.qk_norm_rope import rotate
from skipsr_jax.kernels.quantized import Format, Quantized, quantize_rows
from skipsr_jax.models.dit import projected_windows
from skipsr_jax.models.dit.branch import Branch
from skipsr_jax.models.dit.merged_attention import attend_merged
from skipsr_jax.models.dit.window_rows import from_windows, text_mean, to_windows
from skipsr_jax.parallel.activations import activation_sharding
from skipsr_jax.parallel.overlapped_attention import attend_by_heads, project_head_chunks
from skipsr_jax.parallel.sequence import (
    QKV,
    Attention,
    Tokens,
    attend_by_packs,
    attend_by_windows,
)
from skipsr_jax.tokens.layout import Layout
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.tokens.windows import REGULAR
from skipsr_jax.types import Float, Int


class Angles(NamedTuple):
    """Rotary angles of stored tokens and of text tokens; None where text is not rotated."""

    video: Float[Array, "b n pairs"]
    text: Float[Array, "1 m pairs"] | None


def joint_attention(
    vid: Float[Array, "b n d"] | Quantized,
    txt: Float[Array, "b m d"] | Quantized,
    branches: tuple[Branch, Branch],
    angles: Angles,
    plan: TokenPlan,
    shifted: Int[Array, ""] | int,
    *,
    implementation: str | None,
) -> tuple[Float[Array, "b n *heads"] | Quantized, Float[Array, "b m *heads"]]:
    """The heads' results (a, p), or on TPUs (a p), for video and text; video is quantised where
    products are.

    Args:
      vid, txt: what the projections receive.
      branches: the weights of video and of text.
      plan, shifted: as ``Block``.
      implementation: of the attention kernel, None to pick.
    """
    video_branch, text_branch = branches
    text = _project(txt, angles.text, text_branch)
    by_windows = plan.shard_layouts is not None and shifted == REGULAR
    if merged_heads_run(video_branch.head_dim, video_branch.dtype, implementation):
        with jax.named_scope("qkv"):
            projected = video_branch.project(vid, video_branch.qkv_kernel())
        return attend_merged(
            projected,
            angles.video,
            text,
            video_branch,
            of_partition(plan.layout, shifted),
            plan.shard_layouts if by_windows else None,
            implementation=implementation,
        )
    collect = functools.partial(_collect, format=video_branch.format)
    packs = len(angles.video)
    layout = of_partition(plan.layout, shifted)
    if by_windows or activation_sharding(packs).shards == 1:
        video, text, attend = _with_all_heads(
            vid, angles.video, text, video_branch, layout, implementation
        )
        attention = Attention(attend, collect)
        if by_windows:
            return attend_by_windows(attention, video, text, plan.shard_layouts)
        return attend_by_packs(attention, video, text, layout)
    finish = functools.partial(_heads, branch=video_branch)
    chunks = project_head_chunks(
        functools.partial(video_branch.project, vid),
        video_branch.qkv_kernel(),
        angles.video,
        video_branch.heads,
        finish,
        packs,
    )
    # A device has some heads of a row: the row is quantised when it is whole.
    attend = _attend(_window_rows, video_branch, implementation)
    attention = Attention(attend, functools.partial(_collect, format=None))
    return attend_by_heads(attention, chunks, text, layout)


def of_partition(arrays: Any, shifted: Int[Array, ""] | int) -> Any:
    """What a plan's arrays, whose axis 1 counts partitions, say of one of them."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, shifted, axis=1, keepdims=False), arrays
    )


def _project(x: Float[Array, "b n d"] | Quantized, angles: Array | None, branch: Branch) -> QKV:
    """Queries, keys and values of all heads."""
    with jax.named_scope("qkv"):
        projected = branch.project(x, branch.qkv_kernel())
    return _heads(projected, angles, branch)


def _heads(projected: Float[Array, "b n i"], angles: Array | None, branch: Branch) -> QKV:
    """Some heads' queries and keys, normalised and rotated, and values, in the compute dtype."""
    with jax.named_scope("qk_norm"):
        q, k, v = branch.qkv_heads(projected)
    with jax.named_scope("rope"):
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q.astype(branch.dtype), k.astype(branch.dtype), v.astype(branch.dtype)


def _with_all_heads(
    vid: Float[Array, "b n d"] | Quantized,
    angles: Array,
    text: QKV,
    branch: Branch,
    layout: Layout,
    implementation: str | None,
) -> tuple[Tokens, Tokens, Callable[[Tokens, Tokens, Layout], Array]]:
    """What attention with all heads takes of video and of text, and the function that attends."""
    with jax.named_scope("qkv"):
        projected = branch.project(vid, branch.qkv_kernel())
    if projected_windows.supported(branch, projected, layout):
        rows = functools.partial(projected_windows.window_rows, branch)
        video, text = (projected, angles), (text, branch.norm_weights(len(projected)))
        return video, text, _attend(rows, branch, implementation)
    return _heads(projected, angles, branch), text, _attend(_window_rows, branch, implementation)


def _attend(
    window_rows: Callable[[Tokens, Tokens, Layout], QKV], branch: Branch, implementation: str | None
) -> Callable[[Tokens, Tokens, Layout], Array]:
    """The function from video, text and a layout to attention rows.

    ``window_rows`` brings what there is of video and text into windows.
    """

    def attend(vid: Tokens, txt: Tokens, layout: Layout) -> Float[Array, "b s a p"]:
        with jax.named_scope("to_windows"):
            rows = window_rows(vid, txt, layout)
        with jax.named_scope("attention"):
            return varlen_attention(
                *rows,
                layout.cu_seqlens,
                scale=branch.head_dim**-0.5,
                implementation=implementation,
            )

    return attend


def _window_rows(vid: QKV, txt: QKV, layout: Layout) -> QKV:
    q, k, v = (to_windows(a, b, layout) for a, b in zip(vid, txt, strict=True))
    return q, k, v


def _collect(
    rows: Float[Array, "b s a p"], layout: Layout, *, format: Format | None
) -> tuple[Float[Array, "b n a p"] | Quantized, Float[Array, "b m a p"]]:
    """What each stored token and each text token receives: text the mean over its windows.

    ``format``: to which the stored tokens' results are quantised as they are gathered.
    """
    with jax.named_scope("from_windows"):
        video, text = from_windows(rows, layout)
        if format is not None:
            all_heads = rearrange(rows, "b s a p -> b s (a p)")
            video = quantize_rows(all_heads, format, layout.video_rows)
        return video, text_mean(text, layout).astype(rows.dtype)
