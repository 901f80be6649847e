"""The forward Pallas TPU kernel: queries are stationary, keys and values are streamed."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.attention.tpu.stream import (
    LANES,
    MASKED,
    BlockRanges,
    Blocks,
    Copy,
    compiler_params,
    each_part,
    grid_index,
    head_columns_of,
    like,
    masked_scores,
    matmul,
    rows_of,
    stationary_columns,
    stream,
)
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import tpu as pltpu
from skipsr_jax.types import Float, Int


def _kernel(*refs, blocks: Blocks, scale: float, heads: int | None):
    ranges, refs = BlockRanges(*refs[:4]), refs[4:]
    bounds_ref, q_ref, k_ref, v_ref, out_ref, lse_ref, *scratch = refs
    keys, values, out_sum, peak, total, semaphores, slot_ref = scratch
    at = grid_index()
    out_sum[...] = jnp.zeros_like(out_sum)
    total[...] = jnp.zeros_like(total)
    peak[...] = jnp.full_like(peak, MASKED)

    def step(j, slot):
        def work(row):
            part = pl.ds(row, blocks.part)
            bounds = bounds_ref[0, :, part]
            scores = masked_scores(keys[slot], q_ref[part], bounds, j * blocks.streamed, scale)
            new_peak = jnp.maximum(peak[:, part], scores.max(axis=0, keepdims=True))
            # A query that has only had keys of other segments counts them with weight one here.
            # The first key of its own segment scales that by keep = exp(MASKED - new_peak) = 0.
            weights = jnp.exp(scores - new_peak)
            keep = jnp.exp(peak[:, part] - new_peak)
            peak[:, part] = new_peak
            total[:, part] = total[:, part] * keep + weights.sum(axis=0, keepdims=True)
            added = matmul(values[slot], weights.astype(v_ref.dtype), (0, 0))
            out_sum[:, part] = out_sum[:, part] * keep + added

        each_part(ranges, at, blocks, j, work)

    if heads is None:
        sources = [rows_of(ref, at, blocks.streamed) for ref in (k_ref, v_ref)]
    else:
        sources = [
            head_columns_of(ref, at, blocks.streamed, first)
            for ref, first in ((k_ref, heads), (v_ref, 2 * heads))
        ]
    copies = [Copy(*pair) for pair in zip(sources, (keys, values), strict=True)]
    stream(ranges, at, copies, semaphores, slot_ref, step)
    inside = bounds_ref[0, 1:2] > bounds_ref[0, 0:1]
    safe = jnp.where(inside, total[...], 1)
    out_ref[...] = jnp.where(inside, out_sum[...] / safe, 0).T.astype(out_ref.dtype)
    lse_ref[0, 0] = jnp.where(inside, peak[...] + jnp.log(safe), 0)


@functools.partial(jax.jit, static_argnames=("blocks", "scale", "interpret"))
def forward(
    ranges: BlockRanges,
    bounds: Int[Array, "b 2 s"],
    q: Float[Array, "b a s p"],
    k: Float[Array, "b a s p"],
    v: Float[Array, "b a s p"],
    *,
    blocks: Blocks,
    scale: float,
    interpret: object,
) -> tuple[Float[Array, "b a s p"], Float[Array, "b a 1 s"]]:
    """Output and log-sum-exp; both are 0 in rows of no segment.

    s is a multiple of ``blocks.stationary``, and p is 128.
    """
    packs, heads, rows, _ = q.shape
    block = pl.BlockSpec((None, None, blocks.stationary, LANES), lambda b, a, i, *_: (b, a, i, 0))
    return _call(
        (*ranges, bounds, q, k, v),
        (packs, heads, rows),
        (block, block),
        like(q, q.shape, q.dtype),
        functools.partial(_kernel, blocks=blocks, scale=scale, heads=None),
        blocks,
        interpret,
    )


@functools.partial(jax.jit, static_argnames=("heads", "blocks", "scale", "interpret"))
def forward_merged(
    ranges: BlockRanges,
    bounds: Int[Array, "b 2 s"],
    qkv: Float[Array, "b s i"],
    *,
    heads: int,
    blocks: Blocks,
    scale: float,
    interpret: object,
) -> tuple[Float[Array, "b s d"], Float[Array, "b a 1 s"]]:
    """``forward`` of rows that hold queries, keys and values of all heads, i = 3 a p and d = a p.

    The heads' channels are columns of 128, which a block or a copy takes as they are.
    """
    packs, rows, _ = qkv.shape
    block = pl.BlockSpec((None, blocks.stationary, LANES), lambda b, a, i, *_: (b, i, a))
    return _call(
        (*ranges, bounds, qkv, qkv, qkv),
        (packs, heads, rows),
        (block, block),
        like(qkv, (packs, rows, heads * LANES), qkv.dtype),
        functools.partial(_kernel, blocks=blocks, scale=scale, heads=heads),
        blocks,
        interpret,
    )


def _call(operands, sizes, block_specs, out_shape, kernel, blocks: Blocks, interpret):
    """Runs the kernel on the grid of ``sizes`` (packs, heads, rows), with the block specs of
    queries and output."""
    packs, heads, rows = sizes
    queries, out = block_specs
    streamed = pltpu.VMEM((2, blocks.streamed, LANES), out_shape.dtype)
    across = pltpu.VMEM((1, blocks.stationary), jnp.float32)
    everywhere = pl.BlockSpec(memory_space=pl.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(BlockRanges._fields),
        grid=(packs, heads, rows // blocks.stationary),
        in_specs=[
            stationary_columns(2, blocks, of_head=False),
            queries,
            everywhere,
            everywhere,
        ],
        out_specs=[out, stationary_columns(1, blocks, of_head=True)],
        scratch_shapes=[
            streamed,
            streamed,
            pltpu.VMEM((LANES, blocks.stationary), jnp.float32),
            across,
            across,
            pltpu.SemaphoreType.DMA((2, 2)),
            pltpu.SMEM((1,), jnp.int32),
        ],
    )
    return pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=[out_shape, like(operands[-1], (packs, heads, 1, rows), jnp.float32)],
        compiler_params=compiler_params(),
        interpret=interpret,
        name="varlen_attention_forward",
    )(*operands)
