"""Zeros into rows of no segment, in place, on NVIDIA GPUs from Ampere on (Pallas on Triton).

A selection would be a pass over the whole array wherever the compiler cannot fuse it with another
pass. This writes the rows outside all segments and reads nothing.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.types import Float, Int

ROWS = 32  # of one program
CHANNELS = 1024  # at most, written at a time


def _kernel(cu_seqlens, aliased, x):
    del aliased  # the same memory as x
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


def zero_rows_of_no_segment(
    x: Float[Array, "b s a p"], cu_seqlens: Int[Array, "b g1"], *, interpret: bool = False
) -> Float[Array, "b s a p"]:
    """``x`` with zeros in the rows before the first bound and from the last one on.

    The result takes the memory of ``x``, which XLA copies first if it is needed later. The rows may
    hold NaN. ``interpret`` runs the kernel without a GPU, for tests.
    """
    packs, rows = x.shape[:2]
    flat = x.reshape(packs, rows, -1)
    zeroed = pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct(flat.shape, flat.dtype),
        grid=(pl.cdiv(rows, ROWS), packs),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        input_output_aliases={1: 0},
        interpret=interpret,
        name="zero_rows_of_no_segment",
    )(cu_seqlens.astype(jnp.int32), flat)
    return zeroed.reshape(x.shape)
