"""The rows of attention in windows on NVIDIA GPUs, from the projection of stored tokens.

The same computation as the steps in ``models.dit.attention``. One kernel (``kernels.qkv_windows``)
normalises and rotates queries and keys and gathers them and the values into attention rows. The
backward pass has one of its own, where the compiler would write several float32 arrays of all
tokens and heads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from skipsr_jax.kernels import qkv_windows
from skipsr_jax.kernels.choice import log_choice
from skipsr_jax.kernels.qkv_windows import QKVWindowsProblem
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.dit.branch import Branch, Projected, Text
from skipsr_jax.models.dit.window_rows import text_sums
from skipsr_jax.parallel.sequence import QKV
from skipsr_jax.tokens.layout import Layout
from skipsr_jax.types import Float


def window_rows(branch: Branch, video: Projected, text: Text, layout: Layout) -> QKV:
    """Queries, keys and values (b, s, a, p) of video and text as attention rows.

    Args:
      branch: the video's weights.
    """
    text_rows = rearrange(jnp.stack(text[0]), "three b m a p -> b m (three a p)")
    problem = _problem(branch, video[0], layout)
    return _to_windows(video[0], text_rows, text[1][0], video[1], layout, problem)


def supported(branch: Branch, projected: Float[Array, "b n i"], layout: Layout) -> bool:
    """Whether ``window_rows`` runs here; which way is taken is logged."""
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
