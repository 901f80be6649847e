"""The bounds of each row's segment, from the bounds of segments.

``cu_seqlens`` (b, g + 1) is non-decreasing; segment i of a pack spans rows
[cu_seqlens[i], cu_seqlens[i + 1]). Padding repeats the last value, and segments may be empty
anywhere. Rows before the first bound or from the last bound on belong to no segment.
"""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Bool, Int


def row_bounds(
    cu_seqlens: Int[Array, "b g1"], rows: int
) -> tuple[Int[Array, "b s"], Int[Array, "b s"], Bool[Array, "b s"]]:
    """Start and end of each row's segment, and whether it has one (start = end = 0 where not)."""
    cu = cu_seqlens.astype(jnp.int32)
    # The number of bounds <= row: the last of them opens row's segment, and empty ones are passed.
    # It is a sum and not a binary search, which would be a loop of small kernels in every layer.
    pack = jnp.arange(len(cu), dtype=jnp.int32)[:, None]
    bounds_at = jnp.zeros((len(cu), rows), jnp.int32).at[pack, cu].add(1, mode="drop")
    after = jnp.cumsum(bounds_at, axis=1)
    last = cu.shape[1] - 1
    inside = (after > 0) & (after <= last)
    start = jnp.take_along_axis(cu, jnp.clip(after - 1, 0, last), axis=1)
    end = jnp.minimum(jnp.take_along_axis(cu, jnp.clip(after, 0, last), axis=1), rows)
    return jnp.where(inside, start, 0), jnp.where(inside, end, 0), inside
