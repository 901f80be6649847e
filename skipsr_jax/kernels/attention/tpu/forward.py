"""The forward Pallas TPU kernel: queries are stationary, keys and values are streamed."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from skipsr_jax.kernels.attention.tpu.stream import (
    LANES,
    MASKED,
    BlockRanges,
    Blocks,
    Copy,
    compiler_params,
    each_part,
    grid_index,
    like,
    masked_scores,
    matmul,
    rows_of,
    stationary_columns,
    stationary_rows,
    stream,
)
from skipsr_jax.types import Float, Int


def _kernel(*refs, blocks: Blocks, scale: float):
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
            scores = masked_scores(
                keys[slot], q_ref[0, 0, part], bounds, j * blocks.streamed, scale
            )
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

    copies = [
        Copy(rows_of(k_ref, at, blocks.streamed), keys),
        Copy(rows_of(v_ref, at, blocks.streamed), values),
    ]
    stream(ranges, at, copies, semaphores, slot_ref, step)
    inside = bounds_ref[0, 1:2] > bounds_ref[0, 0:1]
    safe = jnp.where(inside, total[...], 1)
    out_ref[0, 0] = jnp.where(inside, out_sum[...] / safe, 0).T.astype(out_ref.dtype)
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
    streamed = pltpu.VMEM((2, blocks.streamed, LANES), k.dtype)
    across = pltpu.VMEM((1, blocks.stationary), jnp.float32)
    everywhere = pl.BlockSpec(memory_space=pl.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(ranges),
        grid=(packs, heads, rows // blocks.stationary),
        in_specs=[
            stationary_columns(2, blocks, of_head=False),
            stationary_rows(blocks),
            everywhere,
            everywhere,
        ],
        out_specs=[stationary_rows(blocks), stationary_columns(1, blocks, of_head=True)],
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
        functools.partial(_kernel, blocks=blocks, scale=scale),
        grid_spec=grid,
        out_shape=[like(q, q.shape, q.dtype), like(q, (packs, heads, 1, rows), jnp.float32)],
        compiler_params=compiler_params(),
        interpret=interpret,
        name="varlen_attention_forward",
    )(*ranges, bounds, q, k, v)
