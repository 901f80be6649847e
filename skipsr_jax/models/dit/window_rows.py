"""Gathers between stored tokens and attention rows: each window's tokens, then its sample's text.

``to_windows`` copies tokens to rows, a text token once for each window. ``from_windows`` brings
rows back, a text token as the sum over its windows. Each is the transpose of the other and its
gradient, so that neither direction scatters with addition: all are gathers by the plan's indices.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from skipsr_jax.tokens.layout import Layout
from skipsr_jax.types import Float, Int


def _take(
    rows: Float[Array, "b rows a p"], index: Int[Array, "b taken"]
) -> Float[Array, "b taken a p"]:
    """Rows by index, zeros where the index points past the end."""
    return jnp.take_along_axis(rows, index[..., None, None], axis=1, mode="fill", fill_value=0)


@jax.custom_vjp
def to_windows(
    video: Float[Array, "b n a p"], text: Float[Array, "b m a p"], layout: Layout
) -> Float[Array, "b s a p"]:
    """Stored tokens and text tokens -> attention rows, zeros where a row is padding."""
    tokens, gather = video.shape[1], layout.gather
    of_video = gather < tokens
    # No row of video ++ text is ever written down: both gathers are one pass over the result.
    rows = _take(video, jnp.where(of_video, gather, tokens))
    more = _take(text, jnp.where(of_video, text.shape[1], gather - tokens))
    return jnp.where(of_video[..., None, None], rows, more)


@jax.custom_vjp
def from_windows(
    rows: Float[Array, "b s a p"], layout: Layout
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """Attention rows -> stored tokens, and text tokens summed over the windows of their sample.

    Zeros where a token is padding.
    """
    b, windows, slots = layout.text_rows.shape
    copies = _take(rows, layout.text_rows.reshape(b, windows * slots))
    copies = rearrange(copies, "b (g l) a p -> b g l a p", g=windows).astype(jnp.float32)
    member = (layout.text_weight > 0).astype(jnp.float32)
    text = rearrange(jnp.einsum("bkg,bglap->bklap", member, copies), "b k l a p -> b (k l) a p")
    return _take(rows, layout.video_rows), text


def _to_forward(video: Array, text: Array, layout: Layout) -> tuple[Array, Layout]:
    return to_windows(video, text, layout), layout


def _to_backward(layout: Layout, gradient: Array) -> tuple[Array, Array, None]:
    video, text = from_windows(gradient, layout)
    return video, text.astype(gradient.dtype), None


def _from_forward(rows: Array, layout: Layout) -> tuple[tuple[Array, Array], Layout]:
    return from_windows(rows, layout), layout


def _from_backward(layout: Layout, gradients: tuple[Array, Array]) -> tuple[Array, None]:
    video, text = gradients
    return to_windows(video, text.astype(video.dtype), layout), None


to_windows.defvjp(_to_forward, _to_backward)
from_windows.defvjp(_from_forward, _from_backward)
