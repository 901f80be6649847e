"""Token plans in which the mask acts elsewhere than around the transformer (paper, figure 5a).

All three keep every token in the residual stream. With ``attention_masked`` and ``queries_masked``
all tokens run in norms, linear layers and MLPs: the first takes skipped tokens out of attention as
queries and as keys, the second as queries only. With ``routed`` most layers run on kept tokens and
some, in between, on all. Plans are data, so the project's own transformer runs all of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from benchmarks.models import plan_for
from skipsr_jax.kernels.attention import IMPLEMENTATIONS, Problem, cudnn, varlen_attention
from skipsr_jax.kernels.choice import Implementation
from skipsr_jax.kernels.target import Target, current_target
from skipsr_jax.models.dit import Body, DiTConfig
from skipsr_jax.tokens.layout import Layout, Leaf
from skipsr_jax.tokens.patches import gather_kept, scatter_kept
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import Bool, DType, Float, HostArray, Int

KEPT_QUERIES = "kept_queries"
"""Name of the attention that ``queries_masked`` plans need; see ``kept_query_attention``."""


class Routed(NamedTuple):
    """A plan of all tokens with the plan of the kept ones.

    Attributes:
      everything: of all tokens.
      kept: of the kept tokens alone.
      index (b, n of ``kept``): the index of each kept token among all, -1 where it is padding.
    """

    everything: TokenPlan
    kept: TokenPlan
    index: Leaf


def _indices(everything: TokenPlan, kept: TokenPlan) -> np.ndarray:
    """The index in ``everything`` of each stored token of ``kept``; -1 for padding."""
    of_patch = np.argsort(everything.patch_index[0][everything.valid[0]])
    return np.where(kept.valid[0], of_patch[kept.patch_index[0]], -1).astype(np.int32)


def routed(keep: Bool[HostArray, "t r q"]) -> Routed:
    """The plan of all tokens and that of the kept ones, for `Interspersed`."""
    everything, kept = plan_for(np.ones_like(keep)), plan_for(keep)
    return Routed(everything, kept, _indices(everything, kept)[None])


def attention_masked(keep: Bool[HostArray, "t r q"]) -> TokenPlan:
    """A plan that stores all tokens and has attention rows for kept tokens and text alone."""
    everything, kept = plan_for(np.ones_like(keep)), plan_for(keep)
    index, rows = _indices(everything, kept), kept.layout.gather.shape[2]
    stored = everything.patch_index.shape[1]
    # Rows of kept tokens -> rows of all; text and padding move up behind the longer list.
    source = np.concatenate([index, stored + np.arange(kept.text_length.sum() + 1)])
    video_rows = np.full((1, 2, stored), rows, np.int32)
    video_rows[:, :, index[kept.valid[0]]] = kept.layout.video_rows[:, :, kept.valid[0]]
    layout = kept.layout._replace(
        gather=source[kept.layout.gather].astype(np.int32),
        video_rows=video_rows,
    )
    return everything._replace(layout=layout)


def queries_masked(keep: Bool[HostArray, "t r q"]) -> TokenPlan:
    """A plan with attention rows for all tokens, in each window first the queries: kept and text.

    ``cu_seqlens`` has the number of queries of each window behind the bounds of the windows.
    """
    plan = plan_for(np.ones_like(keep))
    is_query = np.ones(plan.layout.gather.shape[2] + 1, bool)
    kept = keep.reshape(-1)[plan.patch_index[0][plan.valid[0]]]
    layouts = []
    for y in range(2):
        one = jax.tree.map(lambda x, y=y: x[0, y], plan.layout)
        is_query[:] = True
        is_query[one.video_rows[plan.valid[0]]] = kept
        window = np.searchsorted(one.cu_seqlens, np.arange(len(one.gather)), side="right")
        order = np.lexsort((~is_query[:-1], window))
        moved = np.append(np.argsort(order), len(order)).astype(np.int32)
        counted = np.concatenate([[0], np.cumsum(is_query[:-1][order])])
        lengths = np.diff(counted[one.cu_seqlens])
        layouts.append(
            one._replace(
                gather=one.gather[order],
                video_rows=moved[one.video_rows],
                text_rows=moved[one.text_rows],
                cu_seqlens=np.concatenate([one.cu_seqlens, lengths]).astype(np.int32),
            )
        )
    layout: Layout = jax.tree.map(lambda *parts: np.stack(parts)[None], *layouts)
    return plan._replace(layout=layout)


def kept_query_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    bounds: Int[Array, "b g2"],
    *,
    scale: float,
) -> Float[Array, "b s a p"]:
    """Attention in which the first rows of each segment are queries; zero in the other rows.

    ``bounds``: cu_seqlens (g + 1 numbers), then the number of queries of each segment (g). On
    Hopper cuDNN computes the queries alone; elsewhere all rows are computed and the others set to
    zero.
    """
    segments = bounds.shape[1] // 2
    cu, queries = bounds[:, : segments + 1], bounds[:, segments + 1 :]
    row = jnp.arange(q.shape[1])
    found = jax.vmap(lambda c: jnp.searchsorted(c, row, side="right", method="scan"))(cu) - 1
    found = jnp.clip(found, 0, segments - 1)
    start, number = (jnp.take_along_axis(x, found, axis=1) for x in (cu[:, :-1], queries))
    is_query = ((row >= start) & (row < start + number))[..., None, None]
    problem = Problem(*q.shape, segments, q.dtype)
    if cudnn.supported(problem, current_target()) is not None:
        return jnp.where(is_query, varlen_attention(q, k, v, cu, scale=scale), 0)
    # A private module of jax, as in kernels/attention/cudnn.py; installed wherever this runs.
    from jax._src.cudnn import fused_attention_stablehlo as fused

    absent = jnp.diff(cu) == 0
    lengths, kept = (jnp.where(absent, -1, x) for x in (jnp.diff(cu), queries))
    offsets = jnp.pad(jnp.where(absent, -1, cu[:, :-1]), ((0, 0), (0, 1)), constant_values=-1)
    out = fused.dot_product_attention(
        q, k, v, None, None, kept, lengths, offsets, offsets,
        scale=scale, mask_type=fused.MaskType.PADDING,
    )  # fmt: skip
    return jnp.where(is_query, out, 0)


def offer_kept_queries() -> None:
    """Registers `kept_query_attention` under ``KEPT_QUERIES`` for ``DiT(attention=...)``."""

    def anywhere(problem: Problem, target: Target) -> None:
        return None

    IMPLEMENTATIONS[KEPT_QUERIES] = Implementation(anywhere, kept_query_attention)


def is_dense(layer: int, every: int) -> bool:
    """Whether a layer of `Interspersed` runs on all tokens: the last of each ``every`` does."""
    return layer % every == every - 1


class Interspersed(Body):
    """The transformer's body; each ``every``-th layer runs on all tokens, others on kept ones."""

    def __init__(self, config: DiTConfig, every: int, *, rngs: nnx.Rngs, dtype: DType):
        changes = [
            layer + 1
            for layer in range(config.layers)
            if layer + 1 == config.layers or is_dense(layer, every) != is_dense(layer + 1, every)
        ]
        depths = tuple(changes)
        super().__init__(config, rngs=rngs, dtype=dtype, param_dtype=dtype, depths=depths)
        self.every = every

    def hidden(self, patches, text, timestep, plan):
        """As ``Body.hidden`` on one device, for a ``Routed`` plan."""
        vid = self.vid_in(patches)
        txt = self.txt_in(text) if self.config.text_width != self.config.width else text
        txt, embedding = txt.astype(self.dtype), self.emb_in(timestep)
        for name, first, _ in self.stacks:
            if is_dense(first, self.every):
                vid, txt = self.run_stack(name, first, vid, txt, embedding, plan.everything)
            else:
                some = gather_kept(vid, plan.index)
                some, txt = self.run_stack(name, first, some, txt, embedding, plan.kept)
                vid = scatter_kept(vid, some, plan.index)
        return [vid], embedding
