"""From segment bounds to per-row bounds.

``cu_seqlens`` (b, g + 1) is non-decreasing; segment i of a pack spans rows
[cu_seqlens[i], cu_seqlens[i + 1]). Padding repeats the last value, and empty segments may stand
anywhere. Rows before the first bound or from the last bound on belong to no segment.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Bool, Float, Int


def rows_inside(cu_seqlens: Int[Array, "b g1"], rows: int) -> Bool[Array, "b s"]:
    """Which rows have a segment: those between the first bound and the last."""
    row = jnp.arange(rows, dtype=jnp.int32)
    return (row >= cu_seqlens[:, :1]) & (row < cu_seqlens[:, -1:])


def zero_outside(x: Float[Array, "b s *rest"], cu_seqlens: Int[Array, "b g1"]) -> Array:
    """Rows of no segment as zeros: selected, not multiplied, for they may hold NaN."""
    inside = rows_inside(cu_seqlens, x.shape[1])
    return jnp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, 0)


def row_bounds(
    cu_seqlens: Int[Array, "b g1"], rows: int
) -> tuple[Int[Array, "b s"], Int[Array, "b s"], Bool[Array, "b s"]]:
    """Start and end of each row's segment, and whether it has one (start = end = 0 where not)."""
    cu = cu_seqlens.astype(jnp.int32)
    # How many bounds are <= row: the last of them opens row's segment, which steps over empty ones.
    # Summed, not searched for: a binary search would be a loop of small kernels in every layer.
    pack = jnp.arange(len(cu), dtype=jnp.int32)[:, None]
    bounds_at = jnp.zeros((len(cu), rows), jnp.int32).at[pack, cu].add(1, mode="drop")
    after = jnp.cumsum(bounds_at, axis=1)
    last = cu.shape[1] - 1
    inside = (after > 0) & (after <= last)
    start = jnp.take_along_axis(cu, jnp.clip(after - 1, 0, last), axis=1)
    end = jnp.minimum(jnp.take_along_axis(cu, jnp.clip(after, 0, last), axis=1), rows)
    return jnp.where(inside, start, 0), jnp.where(inside, end, 0), inside
