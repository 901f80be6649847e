"""Zeros into rows of no segment, in place, on NVIDIA GPUs from Ampere on (Pallas on Triton).

``segments.zero_outside`` selects, which is a pass over the whole array wherever the compiler cannot
join it to another one. This writes the rows outside and reads nothing.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.types import Float, Int

ROWS = 32  # of one program
CHANNELS = 1024  # at most, written at a time


def _kernel(cu_seqlens, given, x):
    del given  # the same memory as x
    pack, rows, width = pl.program_id(1), *x.shape[1:]
    chunk = min(width & -width, CHANNELS)  # a power of two, as Triton wants, that divides a row
    start = pl.program_id(0) * ROWS
    end = jnp.minimum(start + ROWS, rows)

    def clear(row, carry):
        for channel in range(0, width, chunk):
            x[pack, row, pl.ds(channel, chunk)] = jnp.zeros((chunk,), x.dtype)
        return carry

    lax.fori_loop(start, jnp.minimum(end, cu_seqlens[pack, 0]), clear, 0)
    lax.fori_loop(jnp.maximum(start, cu_seqlens[pack, cu_seqlens.shape[1] - 1]), end, clear, 0)


def clear_outside(
    x: Float[Array, "b s a p"], cu_seqlens: Int[Array, "b g1"], *, interpret: bool = False
) -> Float[Array, "b s a p"]:
    """``segments.zero_outside`` in the memory of ``x``, which is copied first if needed later."""
    packs, rows = x.shape[:2]
    flat = x.reshape(packs, rows, -1)
    cleared = pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct(flat.shape, flat.dtype),
        grid=(pl.cdiv(rows, ROWS), packs),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        input_output_aliases={1: 0},
        interpret=interpret,
    )(cu_seqlens.astype(jnp.int32), flat)
    return cleared.reshape(x.shape)
