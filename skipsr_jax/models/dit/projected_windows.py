"""Attention in windows on NVIDIA GPUs, from the projection of stored tokens.

The same computation as the steps in ``models.dit.attention``. One kernel (``kernels.qkv_windows``)
normalises and rotates queries and keys and gathers them and the values into attention rows. The
backward pass has one of its own, where the compiler would write several float32 arrays of all
tokens and heads.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from skipsr_jax.kernels import qkv_windows
from skipsr_jax.kernels.attention import varlen_attention
from skipsr_jax.kernels.choice import log_choice
from skipsr_jax.kernels.qkv_windows import QKVWindowsProblem
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.dit.branch import Branch, Projected, Text
from skipsr_jax.models.dit.window_rows import text_sums
from skipsr_jax.parallel.sequence import QKV
from skipsr_jax.tokens.layout import Layout
from skipsr_jax.types import Float


def attend_projected(
    branch: Branch, implementation: str | None
) -> Callable[[Projected, Text, Layout], Array]:
    """The function from video, text and a layout to attention rows.

    Args:
      branch: the video's weights.
      implementation: of the attention kernel.
    """

    def attend(video: Projected, text: Text, layout: Layout) -> Float[Array, "b s a p"]:
        problem = _problem(branch, video[0], layout)
        with jax.named_scope("to_windows"):
            text_rows = rearrange(jnp.stack(text[0]), "three b m a p -> b m (three a p)")
            rows = _to_windows(video[0], text_rows, text[1][0], video[1], layout, problem)
        with jax.named_scope("attention"):
            return varlen_attention(
                *rows,
                layout.cu_seqlens,
                scale=branch.head_dim**-0.5,
                implementation=implementation,
            )

    return attend


def supported(branch: Branch, projected: Float[Array, "b n i"], layout: Layout) -> bool:
    """Whether ``attend_projected`` runs here; which way is taken is logged."""
    problem = _problem(branch, projected, layout)
    refusal = qkv_windows.supported(problem, current_target())
    refused = {} if refusal is None else {"pallas_triton": refusal}
    name = "xla" if refused else "pallas_triton"
    log_choice("queries, keys and values go to windows by", name, refused)
    return not refused


def _problem(branch: Branch, projected: Array, layout: Layout) -> QKVWindowsProblem:
    heads, width = branch.heads, branch.head_dim
    numbers = max(projected.size, layout.gather.size * heads * width)
    return QKVWindowsProblem(heads, width, branch.eps, np.dtype(projected.dtype), numbers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _to_windows(
    projected: Float[Array, "b n i"],
    text: Float[Array, "b m i"],
    weights: Float[Array, "two p"],
    angles: Float[Array, "b n pairs"],
    layout: Layout,
    problem: QKVWindowsProblem,
) -> QKV:
    """The queries, keys and values (b, s, a, p). Angles get no gradient: nothing trains them."""
    rotation = jnp.cos(angles), jnp.sin(angles)
    return tuple(qkv_windows.to_windows(projected, text, weights, rotation, layout.gather, problem))


def _forward(projected, text, weights, angles, layout, problem):
    rows = _to_windows(projected, text, weights, angles, layout, problem)
    return rows, (projected, weights, angles, layout)


def _backward(problem, saved, gradients):
    projected, weights, angles, layout = saved
    rotation = jnp.cos(angles), jnp.sin(angles)
    of_projected, of_weights = qkv_windows.from_windows(
        projected, weights, rotation, layout.video_rows, list(gradients), problem
    )
    sums = [
        text_sums(rows, layout).reshape(len(rows), -1, problem.heads * problem.head_dim)
        for rows in gradients
    ]
    of_text = jnp.concatenate(sums, axis=-1).astype(projected.dtype)
    return of_projected, of_text, of_weights, None, None


_to_windows.defvjp(_forward, _backward)
