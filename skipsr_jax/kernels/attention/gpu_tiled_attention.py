"""Attention by a pair of GPU kernels that work on tiles: what the kernels share around them.

The kernels work on tiles (``gpu_tile_table``) of rows laid end to end, (s, a, p) with heads as wide
as the kernels want. Rows of no segment may hold anything: no kernel lets a sum see them. Kernels do
not write them; zeros are written there afterwards, in place.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.attention.gpu_tile_table import (
    ROW_MULTIPLE,
    TILE_ROWS,
    TILE_START,
    tile_table,
)
from skipsr_jax.kernels.attention.gpu_zero_rows import zero_rows_of_no_segment
from skipsr_jax.kernels.attention.residuals import named_residuals
from skipsr_jax.types import Float, Int

LOG2_E = math.log2(math.e)
"""Factor on scores, because the kernels compute exponents in base 2."""


@dataclasses.dataclass(frozen=True)
class Kernels:
    """A forward and a backward pass over tiles.

    Attributes:
      forward: ``forward(table, q, k, v, scale=, with_lse=)`` returns the output, and the log2 of
        the sum of exponents of each row of each tile (a, tiles, rows) or None.
      backward: ``backward(table, q, k, v, d_out, lse, delta, scale=)`` returns the three gradients.
        ``delta`` is the dot product of output and its gradient, by tile. In rows of a tile that are
        not its segment's, ``lse`` and ``delta`` are without meaning.
      widths: of a head, that the kernels take, ascending.
      interpret: the kernels run on a CPU.
    """

    forward: Callable[..., tuple[Array, Array | None]]
    backward: Callable[..., tuple[Array, Array, Array]]
    widths: tuple[int, ...]
    interpret: bool = False


def _flat(x: Float[Array, "b s a p"], widths: tuple[int, ...]) -> Float[Array, "rows a width"]:
    """The packs end to end, padded to whole tiles of rows and channels."""
    x = x.reshape(-1, *x.shape[2:])
    width = min(width for width in widths if width >= x.shape[2])
    return jnp.pad(x, ((0, -len(x) % ROW_MULTIPLE), (0, 0), (0, width - x.shape[2])))


def _packs(
    x: Float[Array, "rows a width"],
    like: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    interpret: bool,
) -> Float[Array, "b s a p"]:
    """The inverse of ``_flat``, with zeros in rows of no segment."""
    packs, rows, _, head_dim = like.shape
    x = x[: packs * rows, :, :head_dim].reshape(like.shape)
    return zero_rows_of_no_segment(x, cu_seqlens, interpret=interpret)


def _by_tile(
    x: Float[Array, "b s a"], table: Int[Array, "tiles columns"]
) -> Float[Array, "a tiles rows"]:
    """The value of each row of each tile."""
    row = table[:, TILE_START, None] + jnp.arange(TILE_ROWS, dtype=jnp.int32)
    x = jnp.moveaxis(x.reshape(-1, x.shape[2]), 1, 0)
    return jnp.take(x, row, axis=1, mode="clip")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def tiled_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    kernels: Kernels,
    scale: float,
) -> Float[Array, "b s a p"]:
    """``api.varlen_attention`` by these kernels. Raises ValueError unless scale > 0."""
    return _forward(q, k, v, cu_seqlens, kernels, scale, with_lse=False)[0]


def _forward(q, k, v, cu_seqlens, kernels, scale, *, with_lse):
    if scale <= 0:
        raise ValueError(f"scale {scale} must be positive; negate the queries instead")
    flat = (_flat(x, kernels.widths) for x in (q, k, v))
    table = tile_table(cu_seqlens, q.shape[1])
    out, lse = kernels.forward(table, *flat, scale=scale, with_lse=with_lse)
    return _packs(out, q, cu_seqlens, kernels.interpret), lse


def _attention_forward(q, k, v, cu_seqlens, kernels, scale):
    out, lse = _forward(q, k, v, cu_seqlens, kernels, scale, with_lse=True)
    out, lse = named_residuals(out, lse)
    return out, (q, k, v, cu_seqlens, out, lse)


def _attention_backward(kernels, scale, saved, d_out):
    q, k, v, cu_seqlens, out, lse = saved
    table = tile_table(cu_seqlens, q.shape[1])
    delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
    flat = (_flat(x, kernels.widths) for x in (q, k, v, d_out))
    grads = kernels.backward(table, *flat, lse, _by_tile(delta, table), scale=scale)
    return *(_packs(grad, q, cu_seqlens, kernels.interpret) for grad in grads), None


tiled_attention.defvjp(_attention_forward, _attention_backward)
