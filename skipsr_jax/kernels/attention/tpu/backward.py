"""The backward Pallas TPU kernels, from the log-sum-exp that the forward one saved.

For dq, queries are stationary and keys are streamed. For dk and dv, keys are stationary and queries
are streamed, over the same ranges, because q and k share their segments. With
w = exp(scores - lse) and, per query, delta = d_out . out (Dao 2023, FlashAttention-2):

    dv = w^T d_out,  slope = w * (d_out v^T - delta),  dq = scale slope k,  dk = scale slope^T q

Nothing is added up outside a kernel, so results repeat bit for bit.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.attention.tpu.stream import (
    LANES,
    BlockRanges,
    Blocks,
    Copy,
    columns_of,
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
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import tpu as pltpu
from skipsr_jax.types import Float, Int


def _weights_and_slope(k, v, q, d_out, bounds, saved, first_key, scale):
    """Weights and slope, both (keys, queries). ``saved`` (2, queries): log-sum-exp and delta."""
    scores = masked_scores(k, q, bounds, first_key, scale)
    weights = jnp.exp(scores - saved[0:1])
    return weights, weights * (matmul(v, d_out, (1, 1)) - saved[1:2])


def _query_kernel(*refs, blocks: Blocks, scale: float):
    ranges, refs = BlockRanges(*refs[:4]), refs[4:]
    bounds_ref, saved_ref, q_ref, d_out_ref, k_ref, v_ref, d_q_ref, *scratch = refs
    keys, values, d_q_sum, semaphores, slot_ref = scratch
    at = grid_index()
    d_q_sum[...] = jnp.zeros_like(d_q_sum)

    def step(j, slot):
        def work(row):
            part = pl.ds(row, blocks.part)
            k, v, q, d_out = keys[slot], values[slot], q_ref[0, 0, part], d_out_ref[0, 0, part]
            columns = bounds_ref[0, :, part], saved_ref[0, 0, :, part]
            _, slope = _weights_and_slope(k, v, q, d_out, *columns, j * blocks.streamed, scale)
            d_q_sum[:, part] += matmul(k, slope.astype(k.dtype), (0, 0))

        each_part(ranges, at, blocks, j, work)

    copies = [
        Copy(rows_of(k_ref, at, blocks.streamed), keys),
        Copy(rows_of(v_ref, at, blocks.streamed), values),
    ]
    stream(ranges, at, copies, semaphores, slot_ref, step)
    d_q_ref[0, 0] = (d_q_sum[...] * scale).T.astype(d_q_ref.dtype)


def _key_value_kernel(*refs, blocks: Blocks, scale: float):
    ranges, refs = BlockRanges(*refs[:4]), refs[4:]
    bounds_ref, saved_ref, q_ref, d_out_ref, k_ref, v_ref, d_k_ref, d_v_ref, *scratch = refs
    bounds, saved, queries, d_outs, d_k_sum, d_v_sum, semaphores, slot_ref = scratch
    at = grid_index()
    d_k_sum[...] = jnp.zeros_like(d_k_sum)
    d_v_sum[...] = jnp.zeros_like(d_v_sum)

    def step(j, slot):
        def work(row):
            part = pl.ds(row, blocks.part)
            k, v, q, d_out = k_ref[0, 0, part], v_ref[0, 0, part], queries[slot], d_outs[slot]
            first_key = at.block * blocks.stationary + row
            columns = bounds[slot], saved[slot]
            weights, slope = _weights_and_slope(k, v, q, d_out, *columns, first_key, scale)
            d_v_sum[part] += matmul(weights.astype(d_out.dtype), d_out, (1, 0))
            d_k_sum[part] += matmul(slope.astype(q.dtype), q, (1, 0))

        each_part(ranges, at, blocks, j, work)

    copies = [
        Copy(columns_of(bounds_ref, (at.pack,), blocks.streamed), bounds),
        Copy(columns_of(saved_ref, (at.pack, at.head), blocks.streamed), saved),
        Copy(rows_of(q_ref, at, blocks.streamed), queries),
        Copy(rows_of(d_out_ref, at, blocks.streamed), d_outs),
    ]
    stream(ranges, at, copies, semaphores, slot_ref, step)
    d_k_ref[0, 0] = (d_k_sum[...] * scale).astype(d_k_ref.dtype)
    d_v_ref[0, 0] = d_v_sum[...].astype(d_v_ref.dtype)


def _call(kernel, name, outputs, grid_specs, scratch, operands, *, blocks, scale, interpret):
    """One kernel over (packs, heads, blocks), results shaped as the last operand, a value array."""
    like_value = operands[-1]
    packs, heads, rows, _ = like_value.shape
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(BlockRanges._fields),
        grid=(packs, heads, rows // blocks.stationary),
        in_specs=grid_specs,
        out_specs=[stationary_rows(blocks)] * outputs,
        scratch_shapes=[*scratch, pltpu.SMEM((1,), jnp.int32)],
    )
    return pl.pallas_call(
        functools.partial(kernel, blocks=blocks, scale=scale),
        grid_spec=grid,
        out_shape=[like(like_value, like_value.shape, like_value.dtype)] * outputs,
        compiler_params=compiler_params(),
        interpret=interpret,
        name=name,
    )(*operands)


@functools.partial(jax.jit, static_argnames=("blocks", "scale", "interpret"))
def backward(
    ranges: BlockRanges,
    bounds: Int[Array, "b 2 s"],
    saved: Float[Array, "b a 2 s"],
    q: Float[Array, "b a s p"],
    k: Float[Array, "b a s p"],
    v: Float[Array, "b a s p"],
    d_out: Float[Array, "b a s p"],
    *,
    blocks: Blocks,
    scale: float,
    interpret: object,
) -> tuple[Float[Array, "b a s p"], Float[Array, "b a s p"], Float[Array, "b a s p"]]:
    """dq, dk and dv. ``saved`` holds the log-sum-exp and delta of each row; p is 128."""
    settings = {"blocks": blocks, "scale": scale, "interpret": interpret}
    operands = (*ranges, bounds, saved, q, d_out, k, v)
    everywhere = pl.BlockSpec(memory_space=pl.ANY)
    stationary = stationary_rows(blocks)
    total = pltpu.VMEM((blocks.stationary, LANES), jnp.float32)
    streamed = pltpu.VMEM((2, blocks.streamed, LANES), q.dtype)
    (d_q,) = _call(
        _query_kernel,
        "varlen_attention_d_query",
        1,
        [
            stationary_columns(2, blocks, of_head=False),
            stationary_columns(2, blocks, of_head=True),
            stationary,
            stationary,
            everywhere,
            everywhere,
        ],
        [
            streamed,
            streamed,
            pltpu.VMEM((LANES, blocks.stationary), jnp.float32),
            pltpu.SemaphoreType.DMA((2, 2)),
        ],
        operands,
        **settings,
    )
    d_k, d_v = _call(
        _key_value_kernel,
        "varlen_attention_d_key_value",
        2,
        [everywhere] * 4 + [stationary, stationary],
        [
            pltpu.VMEM((2, 2, blocks.streamed), jnp.int32),
            pltpu.VMEM((2, 2, blocks.streamed), jnp.float32),
            streamed,
            streamed,
            total,
            total,
            pltpu.SemaphoreType.DMA((4, 2)),
        ],
        operands,
        **settings,
    )
    return d_q, d_k, d_v
