"""What the Hopper kernels share: sizes, shared memory, copies in and out, the cut at an end.

A block of threads is GROUPS warpgroups that compute, on GROUP_ROWS rows each that stand still in
shared memory, and one that copies the rows that go by, STAGES blocks ahead of them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from skipsr_jax.kernels.varlen_attention.tiles import TILE_ROWS
from skipsr_jax.types import Array

try:
    from jax.experimental.pallas.mosaic_gpu import store as _store
except ImportError:  # before jax 0.12
    _store = None

GROUPS = 2
GROUP_ROWS = TILE_ROWS // GROUPS
STAGES = 2
COMPUTE_REGISTERS, COPY_REGISTERS = 232, 40  # of a thread; 2 x 128 x 232 + 128 x 40 <= 65,536
LOG2_E = math.log2(math.e)
WGMMA = plgpu.Layout.WGMMA


def swizzled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory in the layout that the tensor cores and the copy engine agree on."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def zeros(shape: tuple[int, int]) -> Array:
    """In the accumulator's layout."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), WGMMA)


def spread(x: Array, shape: tuple[int, int], axis: int) -> Array:
    """``x[i]`` at every place whose index along ``axis`` is i."""
    return lax.broadcast_in_dim(x, shape, [axis])


def before(end: Array, shape: tuple[int, int], axis: int) -> Array:
    """Where the index along ``axis`` is below ``end``."""
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA) < end


def slot_of(step: Array) -> Array:
    """Which of the STAGES buffers holds block ``step``."""
    return lax.rem(step, jnp.int32(STAGES))


def zero_from(rows: Any, end: Array) -> None:
    """Zeroes rows of shared memory from ``end`` on: a weight of zero on them then gives zero.

    Every warpgroup that reads them calls it, and all write the same.
    """
    for first in range(0, rows.shape[0], 64):
        part = rows.at[pl.ds(first, 64)]
        held = plgpu.layout_cast(part[...], WGMMA)
        inside = before(end - first, held.shape, 0)
        part[...] = jnp.where(inside, held, jnp.zeros_like(held))
    plgpu.commit_smem()


@dataclasses.dataclass(frozen=True)
class Stream:
    """One array that goes by: ``block(step)`` of it into ``shared[slot]``, then ``ready[slot]``."""

    block: Callable[[Array], Any]
    shared: Any
    ready: Any
    free: Any


def copy_streams(streams: tuple[Stream, ...], steps: Array) -> None:
    """All blocks in order, each as soon as its buffer is free."""

    @pl.loop(0, steps)
    def _(step):
        slot = slot_of(step)
        waited = []
        for stream in streams:
            if not any(stream.free is barrier for barrier in waited):
                waited.append(stream.free)
                pl.when(step >= STAGES)(lambda free=stream.free: plgpu.barrier_wait(free.at[slot]))
            plgpu.copy_gmem_to_smem(
                stream.block(step), stream.shared.at[slot], stream.ready.at[slot]
            )


def _store_plain(target: Any, value: Array) -> None:
    """To shared memory that is not swizzled, where bank conflicts cannot be avoided."""
    if _store is None:
        target[...] = value
    else:
        _store(target, value, optimized=False)


def write_rows(value: Array, target: Any, start: Array, count: Array, whole: Any, tail: Any):
    """The first ``count`` rows of ``value`` to ``target`` from ``start`` on; waits for it.

    ``whole`` is swizzled shared memory for all of them at once, ``tail`` plain shared memory for a
    row at a time, so that nothing past them is written.
    """

    @pl.when(count == GROUP_ROWS)
    def _():
        whole[...] = value
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(whole, target.at[pl.ds(start, GROUP_ROWS)])

    @pl.when(count < GROUP_ROWS)
    def _():
        _store_plain(tail, value)
        plgpu.commit_smem()
        pl.loop(0, count)(lambda row: plgpu.copy_smem_to_gmem(tail.at[row], target.at[start + row]))

    plgpu.wait_smem_to_gmem(0)


def launch(
    compute: Callable[..., None],
    copy: Callable[..., None],
    operands: tuple[Array, ...],
    out_type: list[jax.ShapeDtypeStruct],
    scratch_types: dict[str, Any],
    heads: int,
) -> list[Array]:
    """Runs ``compute`` and ``copy`` in blocks of threads over heads and tiles.

    ``operands[0]`` is the table of tiles. Both roles get the references of operands and results,
    then the scratch by name; tiles without work are left out.
    """

    def kernel(*refs):
        *arrays, scratch = refs
        group = lax.axis_index("group")
        tile = lax.axis_index("tile")

        @pl.when(arrays[0][tile, 1] > 0)
        def _():
            @pl.when(group < GROUPS)
            def _():
                plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
                compute(*arrays, **scratch)

            @pl.when(group == GROUPS)
            def _():
                plgpu.set_max_registers(COPY_REGISTERS, action="decrease")
                copy(*arrays, **scratch)

    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=[scratch_types],
        grid=(heads, operands[0].shape[0]),
        grid_names=("head", "tile"),
        num_threads=GROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
    )(*operands)
