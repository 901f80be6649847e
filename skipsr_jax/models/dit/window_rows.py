"""Gathers between stored tokens and attention rows: each window's tokens, then its sample's text.

``to_windows`` copies tokens to rows, a text token once for each window. ``from_windows`` brings
rows back, a text token as the sum over its windows. Each is the transpose of the other and its
gradient, so that neither direction scatters with addition: all are gathers by the plan's indices.
``to_merged_windows`` and ``from_merged_windows`` are the same for TPUs, which run every gather and
every selection as a pass of its own: one gather of the tokens, and the few rows of text written
over it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.tokens.layout import Layout
from skipsr_jax.types import Float, Int


def _take(rows: Array, index: Int[Array, "b taken"], mode: str = "fill") -> Array:
    """Rows (b, rows, ...) by index; where it points past the end zeros, or the last row with
    ``mode`` "clip"."""
    index = index.reshape(*index.shape, *(1,) * (rows.ndim - 2))
    fill = {"fill_value": 0} if mode == "fill" else {}
    return jnp.take_along_axis(rows, index, axis=1, mode=mode, **fill)


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
    rows: Float[Array, "b s *channels"], layout: Layout
) -> tuple[Float[Array, "b n *channels"], Float[Array, "b m *channels"]]:
    """Attention rows -> stored tokens, and text tokens summed over the windows of their sample.

    Zeros where a token is padding.
    """
    return _take(rows, layout.video_rows), text_sums(rows, layout)


def text_sums(rows: Float[Array, "b s *channels"], layout: Layout) -> Array:
    """Text tokens (b, m, *channels), each the sum of its rows, in float32."""
    b, windows, slots = layout.text_rows.shape
    copies = _take(rows, layout.text_rows.reshape(b, windows * slots))
    copies = copies.reshape(b, windows, slots, -1).astype(jnp.float32)
    member = (layout.text_weight > 0).astype(jnp.float32)
    text = jnp.einsum("bkg,bglc->bklc", member, copies)
    return text.reshape(b, -1, *rows.shape[2:])


def text_mean(sums: Float[Array, "b m *channels"], layout: Layout) -> Array:
    """The mean over windows of each text token, from the sum over them."""
    weight = layout.text_weight.max(axis=2)  # of one window, the same for all of a sample
    weights = jnp.repeat(weight, sums.shape[1] // weight.shape[1], axis=1)
    return sums * weights.reshape(*weights.shape, *(1,) * (sums.ndim - 2))


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def to_merged_windows(
    video: Float[Array, "b n i"], text: Float[Array, "b m i"], layout: Layout, rows: int
) -> Float[Array, "b rows i"]:
    """``to_windows`` of tokens whose heads are merged, with ``rows`` rows, s or more.

    Rows that are padding hold some token's numbers.
    """
    tokens, used = video.shape[1], layout.gather.shape[1]
    index = jnp.where(layout.gather < tokens, layout.gather, 0)
    taken = _take(video, jnp.pad(index, ((0, 0), (0, rows - used))), "clip")
    b = len(video)
    text_rows = layout.text_rows.reshape(b, -1)
    source = _take(layout.gather, text_rows, "clip") - tokens
    copies = _take(text, jnp.clip(source, 0, text.shape[1] - 1), "clip")
    beyond = rows + jnp.arange(text_rows.shape[1])  # all different, and all dropped
    text_rows = jnp.where(text_rows < used, text_rows, beyond)
    pack = jnp.arange(b)[:, None]
    return taken.at[pack, text_rows].set(copies, mode="drop", unique_indices=True)


@jax.custom_vjp
def from_merged_windows(
    rows: Float[Array, "b rows d"], layout: Layout
) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
    """``from_windows`` of rows whose heads are merged; rows from s on are zero.

    Padding tokens hold some row's numbers.
    """
    return _take(rows, layout.video_rows, "clip"), text_sums(rows, layout)


def _to_merged_forward(video: Array, text: Array, layout: Layout, rows: int):
    return to_merged_windows(video, text, layout, rows), layout


def _to_merged_backward(rows: int, layout: Layout, gradient: Array):
    video, text = from_windows(gradient[:, : layout.gather.shape[1]], layout)
    return video, text.astype(gradient.dtype), None


def _from_merged_forward(rows: Array, layout: Layout):
    return from_merged_windows(rows, layout), (layout, rows.shape[1])


def _from_merged_backward(saved: tuple[Layout, int], gradients: tuple[Array, Array]):
    layout, rows = saved
    video, text = gradients
    return to_merged_windows(video, text.astype(video.dtype), layout, rows), None


to_merged_windows.defvjp(_to_merged_forward, _to_merged_backward)
from_merged_windows.defvjp(_from_merged_forward, _from_merged_backward)
